/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import java.util.Arrays;
import java.util.Comparator;
import java.util.stream.IntStream;

/** Measures of how well embeddings agree with others, or with what people say. */
final class Quality {

    private Quality() {}

    /** Returns the mean cosine of embeddings of length 1, sentence by sentence. */
    static double meanCosine(float[][] a, float[][] b) {
        return IntStream.range(0, a.length).mapToDouble(i -> dot(a[i], b[i])).average().orElse(0);
    }

    /** Returns the largest difference of any component; NaN if any is. */
    static double maxDifference(float[][] a, float[][] b) {
        double max = 0;
        for (int i = 0; i < a.length; ++i) {
            for (int j = 0; j < a[i].length; ++j) {
                max = Math.max(max, Math.abs((double) a[i][j] - b[i][j]));
            }
        }
        return max;
    }

    /** Returns the cosines of neighbors: of rows 0 and 1, 2 and 3, and so on. */
    static double[] pairCosines(float[][] embeddings) {
        return IntStream.range(0, embeddings.length / 2)
                .mapToDouble(i -> dot(embeddings[2 * i], embeddings[2 * i + 1]))
                .toArray();
    }

    private static double dot(float[] a, float[] b) {
        double sum = 0;
        for (int i = 0; i < a.length; ++i) {
            sum += (double) a[i] * b[i];
        }
        return sum;
    }

    /** Returns Spearman's rank correlation; ties get their mean rank. */
    static double spearman(double[] a, double[] b) {
        double[] ranksA = ranks(a);
        double[] ranksB = ranks(b);
        double mean = (a.length - 1) / 2.0;
        double product = 0;
        double squaresA = 0;
        double squaresB = 0;
        for (int i = 0; i < a.length; ++i) {
            product += (ranksA[i] - mean) * (ranksB[i] - mean);
            squaresA += (ranksA[i] - mean) * (ranksA[i] - mean);
            squaresB += (ranksB[i] - mean) * (ranksB[i] - mean);
        }
        return product / Math.sqrt(squaresA * squaresB);
    }

    private static double[] ranks(double[] values) {
        int[] order =
                IntStream.range(0, values.length)
                        .boxed()
                        .sorted(Comparator.comparingDouble(i -> values[i]))
                        .mapToInt(Integer::intValue)
                        .toArray();
        double[] ranks = new double[values.length];
        for (int i = 0; i < order.length; ) {
            int end = i;
            while (end < order.length && values[order[end]] == values[order[i]]) {
                ++end;
            }
            double mean = (i + end - 1) / 2.0;
            Arrays.stream(order, i, end).forEach(index -> ranks[index] = mean);
            i = end;
        }
        return ranks;
    }
}
