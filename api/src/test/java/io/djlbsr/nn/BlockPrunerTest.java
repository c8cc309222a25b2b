/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import io.djlbsr.BsrMatrix;
import io.djlbsr.BsrStructure;
import java.util.Random;
import org.junit.jupiter.api.Test;

class BlockPrunerTest {

    // Blocks of 1x2, norms² 1, 4, 9 / 25, 16, 36.
    private static final float[] DENSE = {1, 0, 0, 2, 3, 0, 0, 5, 4, 0, 0, 6};

    private static BlockPruner pruner(double density, boolean balanced) {
        return BlockPruner.builder()
                .setBlockShape(1, 2)
                .setDensity(density)
                .optBalanced(balanced)
                .build();
    }

    @Test
    void keepsTheLargestBlocksOfTheWholeWeight() {
        BsrMatrix kept = pruner(0.5, false).prune(DENSE, 2, 6);
        assertArrayEquals(new float[] {0, 0, 0, 0, 0, 0, 0, 5, 4, 0, 0, 6}, kept.toDense());
    }

    @Test
    void keepsTheLargestBlocksOfEachRow() {
        BsrMatrix kept = pruner(2 / 3.0, true).prune(DENSE, 2, 6);
        assertArrayEquals(new float[] {0, 0, 0, 2, 3, 0, 0, 5, 0, 0, 0, 6}, kept.toDense());
    }

    @Test
    void keepsAllAndNone() {
        for (boolean balanced : new boolean[] {true, false}) {
            assertArrayEquals(DENSE, pruner(1, balanced).prune(DENSE, 2, 6).toDense());
            assertEquals(0, pruner(0, balanced).prune(DENSE, 2, 6).getStructure().getNnzb());
        }
    }

    @Test
    void keepsAtLeastOneBlockOfAGroup() {
        assertEquals(1, pruner(0.01, false).prune(DENSE, 2, 6).getStructure().getNnzb());
        BsrStructure balanced = pruner(0.01, true).prune(DENSE, 2, 6).getStructure();
        assertArrayEquals(new int[] {0, 1, 2}, balanced.getCrowIndices());
    }

    @Test
    void breaksTiesByPositionAndKeepsNan() {
        float[] equal = {1, 1, 1, 1, 1, 1, 1, 1};
        BsrStructure s = pruner(0.5, false).prune(equal, 1, 8).getStructure();
        assertArrayEquals(new int[] {0, 1}, s.getColIndices());
        float[] damaged = {9, 9, 1, 1, 1, Float.NaN, 8, 8};
        s = pruner(0.25, false).prune(damaged, 1, 8).getStructure();
        assertArrayEquals(new int[] {2}, s.getColIndices());
    }

    @Test
    void prunesArraysToTheSameBlocks() {
        Random random = new Random(2);
        float[] dense = LinearOracle.normal(random, 64 * 48);
        BlockPruner pruner = BlockPruner.builder().setBlockShape(8, 16).setDensity(0.3).build();
        BsrMatrix expected = pruner.prune(dense, 64, 48);
        assertEquals(7, expected.getStructure().getNnzb());
        try (NDManager manager = NDManager.newBaseManager()) {
            assertEquals(expected, pruner.prune(manager.create(dense, new Shape(64, 48))));
            assertEquals(
                    expected,
                    pruner.prune(
                            manager.create(dense, new Shape(64, 48))
                                    .toType(DataType.FLOAT64, false)));
            assertThrows(
                    IllegalArgumentException.class,
                    () -> pruner.prune(manager.ones(new Shape(8, 16, 1))));
        }
    }

    @Test
    void refusesWhatDoesNotFit() {
        assertThrows(IllegalArgumentException.class, () -> pruner(0.5, false).prune(DENSE, 2, 5));
        String message =
                assertThrows(
                                IllegalArgumentException.class,
                                () -> pruner(0.5, false).prune(DENSE, 4, 3))
                        .getMessage();
        assertTrue(message.contains("3") && message.contains("2"), message);
        assertThrows(IllegalArgumentException.class, () -> pruner(1.1, false));
        assertThrows(IllegalArgumentException.class, () -> pruner(Double.NaN, false));
        assertThrows(
                IllegalArgumentException.class,
                () -> BlockPruner.builder().setDensity(0.5).build());
    }
}
