/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import java.util.Random;

/** Seeded random BSR matrices by pattern, for tests and benchmarks of all modules. */
public final class BsrPatterns {

    private BsrPatterns() {}

    /** Which blocks are stored. */
    public enum Pattern {
        /** Each block with the probability of the density. */
        RANDOM,
        /** A band of neighboring blocks around the diagonal, clipped at the edges. */
        BANDED,
        /** One full block-row, the others at a quarter of the density. */
        SKEWED,
        /** Random, but every second block-row and every third block-column is empty. */
        EMPTY_ROWS,
        /** One block; the density is ignored. */
        SINGLE_BLOCK,
        /** All blocks; the density is ignored. */
        FULL,
        /** No block; the density is ignored. */
        EMPTY
    }

    /** Makes a structure of a pattern; the same arguments give the same structure. */
    public static BsrStructure structure(
            Pattern pattern,
            int rows,
            int cols,
            int blockRows,
            int blockCols,
            double density,
            long seed) {
        Random random = new Random(seed);
        int height = rows / blockRows;
        int width = cols / blockCols;
        int chosenRow = height == 0 ? 0 : random.nextInt(height);
        int chosenCol = width == 0 ? 0 : random.nextInt(width);
        int[] crow = new int[height + 1];
        IntList col = new IntList();
        for (int i = 0; i < height; i++) {
            for (int j = 0; j < width; j++) {
                boolean stored =
                        switch (pattern) {
                            case RANDOM -> random.nextDouble() < density;
                            case BANDED ->
                                    Math.abs((j + 0.5) / width - (i + 0.5) / height) < density / 2;
                            case SKEWED -> i == chosenRow || random.nextDouble() < density / 4;
                            case EMPTY_ROWS ->
                                    i % 2 == 0 && j % 3 != 1 && random.nextDouble() < density;
                            case SINGLE_BLOCK -> i == chosenRow && j == chosenCol;
                            case FULL -> true;
                            case EMPTY -> false;
                        };
                if (stored) {
                    col.add(j);
                }
            }
            crow[i + 1] = col.size();
        }
        return BsrStructure.of(rows, cols, blockRows, blockCols, crow, col.toArray());
    }

    /** Makes a matrix of a pattern with normally distributed values. */
    public static BsrMatrix matrix(
            Pattern pattern,
            int rows,
            int cols,
            int blockRows,
            int blockCols,
            double density,
            long seed) {
        BsrStructure structure =
                structure(pattern, rows, cols, blockRows, blockCols, density, seed);
        return BsrMatrix.of(structure, normal(structure.getNnz(), seed + 1));
    }

    /** Makes normally distributed floats. */
    public static float[] normal(int count, long seed) {
        Random random = new Random(seed);
        float[] values = new float[count];
        for (int k = 0; k < count; k++) {
            values[k] = (float) random.nextGaussian();
        }
        return values;
    }
}
