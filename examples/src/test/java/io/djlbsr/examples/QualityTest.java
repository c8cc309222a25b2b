/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.api.Test;

class QualityTest {

    @Test
    void spearmanOfOrderedAndReversedValues() {
        assertEquals(1, Quality.spearman(new double[] {1, 2, 5}, new double[] {-3, 0, 100}), 1e-12);
        assertEquals(-1, Quality.spearman(new double[] {1, 2, 5}, new double[] {9, 8, 1}), 1e-12);
    }

    /** The value is SciPy's: spearmanr([1, 2, 2, 4, 0], [3, 1, 2, 5, 2]). */
    @Test
    void spearmanGivesTiesTheirMeanRank() {
        double[] a = {1, 2, 2, 4, 0};
        double[] b = {3, 1, 2, 5, 2};
        assertEquals(0.2894736842105264, Quality.spearman(a, b), 1e-12);
    }

    @Test
    void cosineAndDifference() {
        float[][] a = {{1, 0}, {0.6f, 0.8f}};
        float[][] b = {{0, 1}, {0.6f, 0.8f}};
        assertEquals(0.5, Quality.meanCosine(a, b), 1e-7);
        assertEquals(1, Quality.maxDifference(a, b));
        assertEquals(0.6, Quality.pairCosines(a)[0], 1e-7);
        b[0][0] = Float.NaN;
        assertTrue(Double.isNaN(Quality.maxDifference(a, b)));
    }
}
