/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import io.djlbsr.BsrMatrix;
import io.djlbsr.BsrStructure;
import java.util.Arrays;
import java.util.Random;

/** Where the blocks of a test matrix lie. */
enum Pattern {
    EMPTY,
    ONE_BLOCK,
    RANDOM,
    FULL,
    BANDED,
    /** One full block-row among empty ones. */
    HEAVY_ROW;

    boolean has(int row, int col, int blockRows, int blockCols, Random random) {
        return switch (this) {
            case EMPTY -> false;
            case ONE_BLOCK -> row == blockRows / 2 && col == blockCols - 1;
            case RANDOM -> random.nextInt(4) == 0;
            case FULL -> true;
            case BANDED -> Math.abs(row - col) <= 1;
            case HEAVY_ROW -> row == blockRows - 1;
        };
    }

    /** Returns a matrix of normally distributed values. */
    BsrMatrix matrix(int blockRowCount, int blockColCount, int[] block, Random random) {
        int[] crow = new int[blockRowCount + 1];
        int[] col = new int[blockRowCount * blockColCount];
        int nnzb = 0;
        for (int i = 0; i < blockRowCount; ++i) {
            for (int j = 0; j < blockColCount; ++j) {
                if (has(i, j, blockRowCount, blockColCount, random)) {
                    col[nnzb++] = j;
                }
            }
            crow[i + 1] = nnzb;
        }
        BsrStructure structure =
                BsrStructure.of(
                        (long) blockRowCount * block[0],
                        (long) blockColCount * block[1],
                        block[0],
                        block[1],
                        crow,
                        Arrays.copyOf(col, nnzb));
        float[] values = new float[nnzb * block[0] * block[1]];
        for (int i = 0; i < values.length; ++i) {
            values[i] = (float) random.nextGaussian();
        }
        return BsrMatrix.of(structure, values);
    }
}
