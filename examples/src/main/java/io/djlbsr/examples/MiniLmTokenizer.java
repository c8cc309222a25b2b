/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import ai.djl.huggingface.tokenizers.Encoding;
import ai.djl.huggingface.tokenizers.HuggingFaceTokenizer;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.Shape;
import java.io.IOException;
import java.io.InputStream;
import java.util.Arrays;
import java.util.List;
import java.util.Map;

/** Turns sentences into token ids, and token ids into batches for {@link MiniLmEncoder}. */
final class MiniLmTokenizer implements AutoCloseable {

    private static final int MAX_TOKENS = 512;

    private final HuggingFaceTokenizer tokenizer;

    /**
     * Creates a tokenizer.
     *
     * @param json the contents of the model's tokenizer.json; its padding and truncation lengths
     *     are replaced by none and 512 tokens
     * @throws IOException if it cannot be read
     */
    MiniLmTokenizer(InputStream json) throws IOException {
        tokenizer =
                HuggingFaceTokenizer.newInstance(
                        json,
                        Map.of(
                                "padding",
                                "false",
                                "truncation",
                                "true",
                                "maxLength",
                                Integer.toString(MAX_TOKENS),
                                "modelMaxLength",
                                Integer.toString(MAX_TOKENS)));
    }

    /** Returns the token ids of each sentence, [CLS] and [SEP] included, at most 512. */
    List<long[]> encode(List<String> sentences) {
        return Arrays.stream(tokenizer.batchEncode(sentences)).map(Encoding::getIds).toList();
    }

    /**
     * Pads sentences to the longest among them.
     *
     * @param manager the manager of the arrays
     * @param sentences the token ids of each sentence
     * @return ids [batch, tokens] and, if the lengths differ, the mask [batch, tokens]
     */
    static NDList batch(NDManager manager, List<long[]> sentences) {
        int longest = sentences.stream().mapToInt(ids -> ids.length).max().orElse(0);
        Shape shape = new Shape(sentences.size(), longest);
        long[] ids = new long[sentences.size() * longest];
        float[] mask = new float[ids.length];
        boolean padded = false;
        for (int i = 0; i < sentences.size(); ++i) {
            long[] sentence = sentences.get(i);
            System.arraycopy(sentence, 0, ids, i * longest, sentence.length);
            Arrays.fill(mask, i * longest, i * longest + sentence.length, 1f);
            padded |= sentence.length < longest;
        }
        NDList list = new NDList(manager.create(ids, shape));
        if (padded) {
            list.add(manager.create(mask, shape));
        }
        return list;
    }

    @Override
    public void close() {
        tokenizer.close();
    }
}
