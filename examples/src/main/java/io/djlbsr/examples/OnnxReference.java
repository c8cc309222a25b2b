/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import java.util.Arrays;
import java.util.List;
import java.util.Map;

/** The embeddings that ONNX Runtime computes, as the yardstick for {@link MiniLmEncoder}. */
final class OnnxReference implements AutoCloseable {

    private final OrtEnvironment environment = OrtEnvironment.getEnvironment();
    private final OrtSession session;

    /**
     * Creates a session.
     *
     * @param onnx the contents of the model file
     * @throws OrtException if it is no valid model
     */
    OnnxReference(byte[] onnx) throws OrtException {
        try (OrtSession.SessionOptions options = new OrtSession.SessionOptions()) {
            session = environment.createSession(onnx, options);
        }
    }

    /**
     * Embeds one sentence.
     *
     * @param ids the token ids
     * @return the mean over the tokens, scaled to length 1
     * @throws OrtException if ONNX Runtime fails
     */
    float[] embed(long[] ids) throws OrtException {
        long[] ones = new long[ids.length];
        Arrays.fill(ones, 1);
        try (OnnxTensor tokens = tensor(ids);
                OnnxTensor mask = tensor(ones);
                OnnxTensor types = tensor(new long[ids.length]);
                OrtSession.Result result =
                        session.run(
                                Map.of(
                                        "input_ids", tokens,
                                        "attention_mask", mask,
                                        "token_type_ids", types))) {
            float[][][] states = (float[][][]) result.get(0).getValue();
            return pool(states[0]);
        }
    }

    private OnnxTensor tensor(long[] row) throws OrtException {
        return OnnxTensor.createTensor(environment, new long[][] {row});
    }

    private static float[] pool(float[][] states) {
        double[] sum = new double[states[0].length];
        for (float[] state : states) {
            for (int i = 0; i < sum.length; ++i) {
                sum[i] += state[i];
            }
        }
        double norm = Math.sqrt(Arrays.stream(sum).map(v -> v * v).sum());
        float[] embedding = new float[sum.length];
        for (int i = 0; i < sum.length; ++i) {
            embedding[i] = (float) (sum[i] / norm);
        }
        return embedding;
    }

    /**
     * Returns the largest difference of any component.
     *
     * @param sentences the token ids of each sentence
     * @param embeddings the embeddings to check, one a sentence
     * @return the maximum of |expected − actual|; NaN if any difference is
     * @throws OrtException if ONNX Runtime fails
     */
    double maxError(List<long[]> sentences, float[][] embeddings) throws OrtException {
        double max = 0;
        for (int i = 0; i < embeddings.length; ++i) {
            float[] expected = embed(sentences.get(i));
            for (int j = 0; j < expected.length; ++j) {
                max = Math.max(max, Math.abs((double) expected[j] - embeddings[i][j]));
            }
        }
        return max;
    }

    @Override
    public void close() throws OrtException {
        session.close();
    }
}
