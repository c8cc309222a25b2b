/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import io.djlbsr.BsrPatterns.Pattern;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import org.junit.jupiter.api.function.Executable;

/** The matrices and checks that the tests of this package share. */
final class Cases {

    /** Square, flat, tall and odd blocks, from single elements to the largest in use. */
    static final int[][] BLOCK_SHAPES = {
        {1, 1}, {1, 32}, {32, 1}, {5, 7}, {16, 64}, {16, 16}, {128, 128}
    };

    private Cases() {}

    /** Every block shape with every pattern, on grids from one block to odd ones. */
    static List<BsrMatrix> matrices() {
        List<BsrMatrix> matrices = new ArrayList<>();
        int[][] grids = {{1, 1}, {3, 5}, {9, 4}};
        for (int[] block : BLOCK_SHAPES) {
            for (int[] grid : grids) {
                for (Pattern pattern : Pattern.values()) {
                    matrices.add(
                            BsrPatterns.matrix(
                                    pattern,
                                    grid[0] * block[0],
                                    grid[1] * block[1],
                                    block[0],
                                    block[1],
                                    0.4,
                                    matrices.size()));
                }
            }
        }
        matrices.add(BsrPatterns.matrix(Pattern.FULL, 0, 8, 2, 4, 1, 0));
        matrices.add(BsrPatterns.matrix(Pattern.FULL, 8, 0, 2, 4, 1, 0));
        matrices.add(BsrPatterns.matrix(Pattern.FULL, 0, 0, 3, 3, 1, 0));
        return matrices;
    }

    /** The value at a place, found by a search through the structure: the oracle of toDense. */
    static float at(BsrMatrix matrix, int row, int col) {
        BsrStructure s = matrix.getStructure();
        int i = row / s.getBlockRows();
        for (int k = s.crow(i); k < s.crow(i + 1); k++) {
            if (s.col(k) == col / s.getBlockCols()) {
                int inBlock = row % s.getBlockRows() * s.getBlockCols() + col % s.getBlockCols();
                return matrix.values().get(k * s.getBlockRows() * s.getBlockCols() + inBlock);
            }
        }
        return 0;
    }

    /** Compares two dense matrices bit by bit. */
    static void assertSameDense(float[] expected, float[] actual, int cols, Object what) {
        assertEquals(expected.length, actual.length, () -> "elements of " + what);
        for (int k = 0; k < expected.length; k++) {
            if (Float.floatToIntBits(expected[k]) != Float.floatToIntBits(actual[k])) {
                throw new AssertionError(
                        String.format(
                                Locale.ROOT,
                                "%s, row %d, column %d: expected %s, got %s",
                                what,
                                k / cols,
                                k % cols,
                                expected[k],
                                actual[k]));
            }
        }
    }

    static void assertRejects(String message, Executable call) {
        assertEquals(message, assertThrows(IllegalArgumentException.class, call).getMessage());
    }
}
