/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.ReadOnlyBufferException;
import java.util.Arrays;
import java.util.Random;
import java.util.function.IntUnaryOperator;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

class BsrMatrixTest {

    private static final BsrStructure ONE_BLOCK =
            BsrStructure.of(2, 4, 2, 2, new int[] {0, 1}, new int[] {1});

    @ParameterizedTest
    @MethodSource("io.djlbsr.Cases#matrices")
    void densePutsEachElementInItsPlace(BsrMatrix m) {
        BsrStructure s = m.getStructure();
        float[] expected = new float[s.getRows() * s.getCols()];
        for (int k = 0; k < expected.length; k++) {
            expected[k] = Cases.at(m, k / s.getCols(), k % s.getCols());
        }
        Cases.assertSameDense(expected, m.toDense(), s.getCols(), m);
    }

    @ParameterizedTest
    @MethodSource("io.djlbsr.Cases#matrices")
    void comesBackFromDenseCooAndCsr(BsrMatrix m) {
        BsrStructure s = m.getStructure();
        int rows = s.getRows();
        int cols = s.getCols();
        float[] dense = m.toDense();
        assertEquals(
                m, BsrMatrix.fromDense(dense, rows, cols, s.getBlockRows(), s.getBlockCols(), 0));

        // The triples of the matrix, shuffled; then as rows.
        IntList at = new IntList();
        int[] crow = new int[rows + 1];
        for (int k = 0; k < dense.length; k++) {
            if (dense[k] != 0) {
                at.add(k);
                crow[k / cols + 1] = at.size();
            }
        }
        for (int i = 1; i <= rows; i++) {
            crow[i] = Math.max(crow[i], crow[i - 1]);
        }
        int[] places = at.toArray();
        assertEquals(
                m,
                BsrMatrix.fromCsr(
                        rows,
                        cols,
                        s.getBlockRows(),
                        s.getBlockCols(),
                        crow,
                        map(places, k -> k % cols),
                        valuesAt(dense, places)));
        shuffle(places);
        assertEquals(
                m,
                BsrMatrix.fromCoo(
                        rows,
                        cols,
                        s.getBlockRows(),
                        s.getBlockCols(),
                        map(places, k -> k / cols),
                        map(places, k -> k % cols),
                        valuesAt(dense, places)));
    }

    private static int[] map(int[] array, IntUnaryOperator f) {
        return Arrays.stream(array).map(f).toArray();
    }

    private static float[] valuesAt(float[] dense, int[] places) {
        float[] values = new float[places.length];
        for (int k = 0; k < places.length; k++) {
            values[k] = dense[places[k]];
        }
        return values;
    }

    private static void shuffle(int[] array) {
        Random random = new Random(7);
        for (int k = array.length - 1; k > 0; k--) {
            int other = random.nextInt(k + 1);
            int swapped = array[k];
            array[k] = array[other];
            array[other] = swapped;
        }
    }

    @ParameterizedTest
    @MethodSource("io.djlbsr.Cases#matrices")
    void transposesElements(BsrMatrix m) {
        BsrStructure s = m.getStructure();
        BsrMatrix t = m.transpose();
        assertEquals(s.transpose(), t.getStructure());
        float[] dense = m.toDense();
        float[] expected = new float[dense.length];
        for (int k = 0; k < dense.length; k++) {
            expected[k % s.getCols() * s.getRows() + k / s.getCols()] = dense[k];
        }
        Cases.assertSameDense(expected, t.toDense(), s.getRows(), t);
        assertEquals(m, t.transpose());
    }

    @ParameterizedTest
    @MethodSource("io.djlbsr.Cases#matrices")
    void reblocksToEveryShapeThatDivides(BsrMatrix m) {
        BsrStructure s = m.getStructure();
        int rows = s.getRows();
        int cols = s.getCols();
        float[] dense = m.toDense();
        int[][] shapes = {
            {1, 1},
            {1, Math.max(cols, 1)},
            {Math.max(rows, 1), 1},
            {2, 3},
            {3, 2},
            {5, 14},
            {10, 7},
            {8, 32},
            {48, 48},
            {Math.max(rows, 1), Math.max(cols, 1)}
        };
        for (int[] shape : shapes) {
            if (rows % shape[0] != 0 || cols % shape[1] != 0) {
                continue;
            }
            BsrMatrix r = m.reblock(shape[0], shape[1]);
            Cases.assertSameDense(dense, r.toDense(), cols, r + " from " + m);
            // The values are never 0, so the stored blocks are the ones that dense finds.
            assertEquals(BsrMatrix.fromDense(dense, rows, cols, shape[0], shape[1], 0), r);
        }
        assertSame(m, m.reblock(s.getBlockRows(), s.getBlockCols()));
    }

    @Test
    void reblockKeepsExplicitZerosAndMakesNoEmptyBlocks() {
        BsrStructure s = BsrStructure.of(4, 8, 2, 2, new int[] {0, 1, 1}, new int[] {3});
        BsrMatrix zeros = BsrMatrix.of(s, new float[4]);
        BsrMatrix single = zeros.reblock(1, 1);
        assertArrayEquals(new int[] {0, 2, 4, 4, 4}, single.getStructure().getCrowIndices());
        assertArrayEquals(new int[] {6, 7, 6, 7}, single.getStructure().getColIndices());
        BsrMatrix wide = zeros.reblock(4, 4);
        assertArrayEquals(new int[] {1}, wide.getStructure().getColIndices());
        assertEquals(0.5, wide.getDensity());
    }

    @ParameterizedTest
    @MethodSource("io.djlbsr.Cases#matrices")
    void builderSortsBlocks(BsrMatrix m) {
        BsrStructure s = m.getStructure();
        int size = s.getBlockRows() * s.getBlockCols();
        int[] order = new int[s.getNnzb()];
        int[] rowOf = new int[s.getNnzb()];
        for (int i = 0; i < s.getBlockRowCount(); i++) {
            for (int k = s.crow(i); k < s.crow(i + 1); k++) {
                order[k] = k;
                rowOf[k] = i;
            }
        }
        shuffle(order);
        BsrMatrix.Builder builder =
                BsrMatrix.builder(s.getRows(), s.getCols(), s.getBlockRows(), s.getBlockCols());
        for (int k : order) {
            float[] block = new float[size];
            m.values().get(k * size, block);
            builder.add(rowOf[k], s.col(k), block);
        }
        assertEquals(m, builder.build());
    }

    @Test
    void builderSumsDuplicatesInOrderAndGoesOn() {
        BsrMatrix.Builder builder = BsrMatrix.builder(2, 4, 1, 2);
        builder.add(1, 1, 1e8f, -0f).add(0, 0, 5, 6).add(1, 1, 1, -0f).add(1, 1, -1e8f, -0f);
        BsrMatrix m = builder.build();
        assertArrayEquals(new int[] {0, 1, 2}, m.getStructure().getCrowIndices());
        assertArrayEquals(new int[] {0, 1}, m.getStructure().getColIndices());
        // (1e8 + 1) - 1e8 is 0 in floats, in this order only.
        assertArrayEquals(new float[] {5, 6, 0, -0f}, m.getValues());
        BsrMatrix more = builder.add(1, 0, 7, 8).build();
        assertEquals(3, more.getStructure().getNnzb());
        assertEquals(2, m.getStructure().getNnzb());
    }

    @Test
    void cooAndCsrSumDuplicatesAndKeepZeros() {
        int[] rows = {3, 0, 3, 1};
        int[] cols = {5, 0, 5, 2};
        BsrMatrix coo = BsrMatrix.fromCoo(4, 6, 2, 2, rows, cols, new float[] {2, 1, 3, 0});
        assertArrayEquals(new int[] {0, 2, 3}, coo.getStructure().getCrowIndices());
        assertArrayEquals(new int[] {0, 1, 2}, coo.getStructure().getColIndices());
        assertArrayEquals(new float[] {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5}, coo.getValues());
        int[] crow = {0, 1, 2, 2, 4};
        BsrMatrix csr =
                BsrMatrix.fromCsr(
                        4, 6, 2, 2, crow, new int[] {0, 2, 5, 5}, new float[] {1, 0, 2, 3});
        assertEquals(coo, csr);
    }

    @Test
    void toleranceDropsBlocksNotElements() {
        float[] dense = {0.5f, -0.5f, 0.6f, 0, Float.NaN, 0, -0f, 0};
        BsrMatrix m = BsrMatrix.fromDense(dense, 1, 8, 1, 2, 0.5f);
        assertArrayEquals(new int[] {1, 2}, m.getStructure().getColIndices());
        assertArrayEquals(new float[] {0.6f, 0, Float.NaN, 0}, m.getValues());
        BsrMatrix exact = BsrMatrix.fromDense(dense, 1, 8, 1, 2, 0);
        assertArrayEquals(new int[] {0, 1, 2}, exact.getStructure().getColIndices());
        BsrMatrix infinite = BsrMatrix.fromDense(dense, 1, 8, 1, 2, Float.POSITIVE_INFINITY);
        assertArrayEquals(new int[] {2}, infinite.getStructure().getColIndices());
    }

    @Test
    void isImmutable() {
        float[] values = {1, 2, 3, 4};
        BsrMatrix m = BsrMatrix.of(ONE_BLOCK, values);
        values[0] = 9;
        m.getValues()[0] = 9;
        assertArrayEquals(new float[] {1, 2, 3, 4}, m.getValues());
        assertThrows(ReadOnlyBufferException.class, () -> m.values().put(0, 9));
        assertEquals(4, m.values().remaining());
    }

    @Test
    void equalityIsOfBits() {
        BsrMatrix m = BsrMatrix.of(ONE_BLOCK, new float[] {0, Float.NaN, 3, 4});
        BsrMatrix same = BsrMatrix.of(ONE_BLOCK, new float[] {0, Float.NaN, 3, 4});
        assertEquals(m, same);
        assertEquals(m.hashCode(), same.hashCode());
        assertNotEquals(m, BsrMatrix.of(ONE_BLOCK, new float[] {-0f, Float.NaN, 3, 4}));
        assertNotEquals(m, m.transpose());
        assertNotEquals("text", m);
        assertEquals("BsrMatrix(2x4, blocks 2x2, nnzb 1, density 0.5000)", m.toString());
    }

    @Test
    void rejectsBadArguments() {
        Cases.assertRejects("structure is null", () -> BsrMatrix.of(null, new float[4]));
        Cases.assertRejects("values is null", () -> BsrMatrix.of(ONE_BLOCK, null));
        Cases.assertRejects(
                "values has length 5; 1 blocks of 2x2 need 4",
                () -> BsrMatrix.of(ONE_BLOCK, new float[5]));
        Cases.assertRejects(
                "dense has length 7; a 2x4 matrix has 8 elements",
                () -> BsrMatrix.fromDense(new float[7], 2, 4, 2, 2, 0));
        Cases.assertRejects(
                "tolerance is -1.0; use 0 or a positive magnitude",
                () -> BsrMatrix.fromDense(new float[8], 2, 4, 2, 2, -1));
        Cases.assertRejects(
                "tolerance is NaN; use 0 or a positive magnitude",
                () -> BsrMatrix.fromDense(new float[8], 2, 4, 2, 2, Float.NaN));
        Cases.assertRejects(
                "cols 4 is not a multiple of blockCols 3; pad the matrix or choose a block shape"
                        + " that divides it",
                () -> BsrMatrix.of(ONE_BLOCK, new float[4]).reblock(2, 3));
        BsrMatrix huge =
                BsrMatrix.of(
                        BsrStructure.of(1 << 16, 1 << 16, 1 << 16, 1, new int[2], new int[0]),
                        new float[0]);
        Cases.assertRejects(
                "a dense 65536x65536 matrix has more than 2147483639 elements, the limit of an"
                        + " array; read the blocks through values()",
                huge::toDense);
    }

    @Test
    void rejectsBadTriples() {
        int[] two = {0, 1};
        Cases.assertRejects(
                "rowIndices has length 2; values has 3",
                () -> BsrMatrix.fromCoo(2, 2, 1, 1, two, two, new float[3]));
        Cases.assertRejects(
                "colIndices has length 2; values has 1",
                () -> BsrMatrix.fromCoo(2, 2, 1, 1, new int[1], two, new float[1]));
        Cases.assertRejects(
                "rowIndices[1] is 2; it must be at least 0 and less than 2",
                () -> BsrMatrix.fromCoo(2, 2, 1, 1, new int[] {0, 2}, two, new float[2]));
        Cases.assertRejects(
                "colIndices[0] is -1; it must be at least 0 and less than 2",
                () -> BsrMatrix.fromCoo(2, 2, 1, 1, two, new int[] {-1, 0}, new float[2]));
        Cases.assertRejects(
                "rows 3 is not a multiple of blockRows 2; pad the matrix or choose a block shape"
                        + " that divides it",
                () -> BsrMatrix.fromCoo(3, 2, 2, 1, two, two, new float[2]));
        Cases.assertRejects(
                "crowIndices[2] is 1; it must be the length of colIndices, 2",
                () -> BsrMatrix.fromCsr(2, 2, 1, 1, new int[] {0, 1, 1}, two, new float[2]));
        Cases.assertRejects(
                "values has length 1; 2 blocks of 1x1 need 2",
                () -> BsrMatrix.fromCsr(2, 2, 1, 1, new int[] {0, 1, 2}, two, new float[1]));
        Cases.assertRejects(
                "colIndices[1] is 2; it must be at least 0 and less than 2",
                () ->
                        BsrMatrix.fromCsr(
                                2, 2, 1, 1, new int[] {0, 1, 2}, new int[] {0, 2}, new float[2]));
        // Two elements far apart ask for two blocks of 2^30 + elements each.
        int n = 1 << 16;
        Cases.assertRejects(
                "2 blocks of 32768x65536 hold more than 2147483639 elements, the limit of one"
                        + " matrix; split the matrix",
                () ->
                        BsrMatrix.fromCoo(
                                n, n, n / 2, n, new int[] {0, n - 1}, two, new float[] {1, 1}));
    }

    @Test
    void rejectsBadBlocks() {
        BsrMatrix.Builder builder = BsrMatrix.builder(2, 4, 1, 2);
        Cases.assertRejects(
                "blockRow is 2; it must be at least 0 and less than 2",
                () -> builder.add(2, 0, 1, 2));
        Cases.assertRejects(
                "blockCol is -1; it must be at least 0 and less than 2",
                () -> builder.add(0, -1, 1, 2));
        Cases.assertRejects(
                "block has length 3; a block of 1x2 has 2 elements",
                () -> builder.add(0, 0, 1, 2, 3));
        Cases.assertRejects("block is null", () -> builder.add(0, 0, (float[]) null));
        assertTrue(builder.build().values().remaining() == 0, "rejected blocks leave no trace");
    }
}
