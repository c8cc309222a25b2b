/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

class MiniLmEncoderTest {

    private static final List<String> SENTENCES =
            List.of(
                    "A plane is taking off.",
                    "A man is playing a large flute, and a woman watches him from the other side.",
                    "naïve café – 東京 ☃ 123,456.78",
                    "x",
                    "");

    private static MiniLmModel model;
    private static OnnxReference reference;

    @BeforeAll
    static void load() throws Exception {
        byte[] onnx = MiniLmModel.readOnnx();
        model = MiniLmModel.load(OnnxWeights.parse(onnx));
        reference = new OnnxReference(onnx);
    }

    @AfterAll
    static void close() throws Exception {
        model.close();
        reference.close();
    }

    @Test
    void equalsOnnxRuntimeSentenceBySentence() throws Exception {
        for (String sentence : SENTENCES) {
            assertEqualToReference(List.of(sentence));
        }
    }

    @Test
    void equalsOnnxRuntimeInARaggedBatch() throws Exception {
        assertEqualToReference(SENTENCES);
    }

    @Test
    void equalsOnnxRuntimeOnLongText() throws Exception {
        String text = "The quick brown fox jumps over the lazy dog near the river bank. ";
        List<String> sentences = List.of(text.repeat(12), text, text.repeat(60));
        List<long[]> tokens = model.getTokenizer().encode(sentences);
        int[] lengths = tokens.stream().mapToInt(ids -> ids.length).toArray();
        assertTrue(lengths[0] > 128 && lengths[0] < 512, Arrays.toString(lengths));
        assertEquals(512, lengths[2]);
        assertEqualToReference(sentences);
    }

    @Test
    void threadsGetTheSameAsOneAfterTheOther() {
        List<float[]> alone = new ArrayList<>();
        SENTENCES.forEach(s -> alone.add(model.embed(List.of(s))[0]));
        List<float[]> parallel =
                IntStream.range(0, 40)
                        .parallel()
                        .mapToObj(i -> model.embed(List.of(SENTENCES.get(i % 5)))[0])
                        .toList();
        for (int i = 0; i < parallel.size(); ++i) {
            assertClose(alone.get(i % 5), parallel.get(i), 1e-6, "call " + i);
        }
    }

    private static void assertEqualToReference(List<String> sentences) throws Exception {
        List<long[]> tokens = model.getTokenizer().encode(sentences);
        float[][] actual = model.embed(sentences);
        for (int i = 0; i < actual.length; ++i) {
            assertClose(reference.embed(tokens.get(i)), actual[i], 1e-4, "sentence " + i);
        }
    }

    private static void assertClose(float[] expected, float[] actual, double bound, String what) {
        assertEquals(expected.length, actual.length, what);
        for (int j = 0; j < expected.length; ++j) {
            assertEquals(expected[j], actual[j], bound, what + ", component " + j);
        }
    }
}
