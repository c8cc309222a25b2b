/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;

import java.util.IntSummaryStatistics;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

class BsrStructureTest {

    // Block-rows: {0, 2}, {}, {1}.
    private static final int[] CROW = {0, 2, 2, 3};
    private static final int[] COL = {0, 2, 1};

    private static BsrStructure sample() {
        return BsrStructure.of(6, 12, 2, 4, CROW, COL);
    }

    @Test
    void tellsWhatItIs() {
        BsrStructure s = sample();
        assertEquals(6, s.getRows());
        assertEquals(12, s.getCols());
        assertEquals(2, s.getBlockRows());
        assertEquals(4, s.getBlockCols());
        assertEquals(3, s.getBlockRowCount());
        assertEquals(3, s.getBlockColCount());
        assertEquals(3, s.getNnzb());
        assertEquals(24, s.getNnz());
        assertEquals(3 / 9.0, s.getDensity());
        assertEquals(2, s.crow(1));
        assertEquals(1, s.col(2));
        IntSummaryStatistics statistics = s.getRowStatistics();
        assertEquals(3, statistics.getCount());
        assertEquals(0, statistics.getMin());
        assertEquals(2, statistics.getMax());
        assertEquals(1.0, statistics.getAverage());
        assertEquals("BsrStructure(6x12, blocks 2x4, nnzb 3, density 0.3333)", s.toString());
    }

    @Test
    void isImmutable() {
        int[] crow = CROW.clone();
        int[] col = COL.clone();
        BsrStructure s = BsrStructure.of(6, 12, 2, 4, crow, col);
        crow[1] = 9;
        col[0] = 9;
        s.getCrowIndices()[1] = 9;
        s.getColIndices()[0] = 9;
        assertArrayEquals(CROW, s.getCrowIndices());
        assertArrayEquals(COL, s.getColIndices());
    }

    @Test
    void equalityCoversEveryField() {
        BsrStructure s = sample();
        assertEquals(s, sample());
        assertEquals(s.hashCode(), sample().hashCode());
        List<BsrStructure> others =
                List.of(
                        BsrStructure.of(3, 12, 1, 4, CROW, COL),
                        BsrStructure.of(6, 9, 2, 3, CROW, COL),
                        BsrStructure.of(6, 16, 2, 4, CROW, COL),
                        BsrStructure.of(6, 12, 2, 4, new int[] {0, 2, 3, 3}, COL),
                        BsrStructure.of(6, 12, 2, 4, CROW, new int[] {0, 1, 1}));
        others.forEach(other -> assertNotEquals(s, other));
        assertNotEquals("text", s);
    }

    @ParameterizedTest
    @MethodSource("io.djlbsr.Cases#matrices")
    void transposesToTheSamePlaces(BsrMatrix matrix) {
        BsrStructure s = matrix.getStructure();
        BsrStructure t = s.transpose();
        assertEquals(s, t.transpose());
        // The transpose passes the checks of a structure made by hand.
        assertEquals(
                t,
                BsrStructure.of(
                        s.getCols(),
                        s.getRows(),
                        s.getBlockCols(),
                        s.getBlockRows(),
                        t.getCrowIndices(),
                        t.getColIndices()));
        boolean[][] stored = new boolean[s.getBlockColCount()][s.getBlockRowCount()];
        for (int i = 0; i < s.getBlockRowCount(); i++) {
            for (int k = s.crow(i); k < s.crow(i + 1); k++) {
                stored[s.col(k)][i] = true;
            }
        }
        for (int j = 0; j < t.getBlockRowCount(); j++) {
            boolean[] row = new boolean[t.getBlockColCount()];
            for (int k = t.crow(j); k < t.crow(j + 1); k++) {
                row[t.col(k)] = true;
            }
            assertArrayEquals(stored[j], row, "block-column " + j + " of " + s);
        }
    }

    @Test
    void emptyMatricesHaveNoDensity() {
        for (int[] shape : new int[][] {{0, 8}, {8, 0}, {0, 0}}) {
            BsrStructure s =
                    BsrStructure.of(
                            shape[0], shape[1], 4, 4, new int[shape[0] / 4 + 1], new int[0]);
            assertEquals(0, s.getDensity());
            assertEquals(shape[0] / 4, s.getRowStatistics().getCount());
        }
    }

    private static void rejects(
            String message,
            long rows,
            long cols,
            int blockRows,
            int blockCols,
            int[] crow,
            int... col) {
        Cases.assertRejects(
                message, () -> BsrStructure.of(rows, cols, blockRows, blockCols, crow, col));
    }

    @Test
    void rejectsBadShapes() {
        rejects("blockRows is 0; use 1 or more", 4, 4, 0, 2, CROW, COL);
        rejects("blockCols is -1; use 1 or more", 4, 4, 2, -1, CROW, COL);
        rejects("rows is -2; use 0 to 2147483638", -2, 4, 2, 2, CROW, COL);
        rejects("cols is 4294967296; use 0 to 2147483638", 4, 1L << 32, 2, 2, CROW, COL);
        rejects(
                "rows 10 is not a multiple of blockRows 4; pad the matrix or choose a block shape"
                        + " that divides it",
                10,
                4,
                4,
                4,
                CROW,
                COL);
        rejects(
                "cols 10 is not a multiple of blockCols 4; pad the matrix or choose a block shape"
                        + " that divides it",
                8,
                10,
                4,
                4,
                CROW,
                COL);
    }

    @Test
    void rejectsBadRowIndices() {
        rejects("crowIndices is null", 6, 12, 2, 4, null, COL);
        rejects("crowIndices has length 3; 3 rows need 4", 6, 12, 2, 4, new int[] {0, 2, 3}, COL);
        rejects("crowIndices has length 0; 0 rows need 1", 0, 12, 2, 4, new int[0]);
        rejects("crowIndices[0] is 1; it must be 0", 6, 12, 2, 4, new int[] {1, 2, 2, 3}, COL);
        rejects(
                "crowIndices[2] is 1, less than 2 before it; it must never decrease",
                6,
                12,
                2,
                4,
                new int[] {0, 2, 1, 3},
                COL);
        rejects(
                "crowIndices[1] is -2147483648, less than 0 before it; it must never decrease",
                6,
                12,
                2,
                4,
                new int[] {0, Integer.MIN_VALUE, 2, 3},
                COL);
        rejects(
                "crowIndices[3] is 4; it must be the length of colIndices, 3",
                6,
                12,
                2,
                4,
                new int[] {0, 2, 2, 4},
                COL);
    }

    @Test
    void rejectsBadColumnIndices() {
        Cases.assertRejects(
                "colIndices is null", () -> BsrStructure.of(6, 12, 2, 4, CROW, (int[]) null));
        rejects(
                "colIndices[1] is 3, in block-row 0; it must be at least 0 and less than the number"
                        + " of block-columns, 3",
                6,
                12,
                2,
                4,
                CROW,
                0,
                3,
                1);
        rejects(
                "colIndices[2] is -1, in block-row 2; it must be at least 0 and less than the number"
                        + " of block-columns, 3",
                6,
                12,
                2,
                4,
                CROW,
                0,
                2,
                -1);
        rejects(
                "colIndices[1] is 0, not sorted: it follows 2 in block-row 0; BsrMatrix.builder"
                        + " sorts blocks and sums duplicates",
                6,
                12,
                2,
                4,
                CROW,
                2,
                0,
                1);
        rejects(
                "colIndices[1] is 2, a duplicate in block-row 0; BsrMatrix.builder sorts blocks and"
                        + " sums duplicates",
                6,
                12,
                2,
                4,
                CROW,
                2,
                2,
                1);
    }

    @Test
    void rejectsMoreElementsThanAnArrayHolds() {
        rejects(
                "2 blocks of 32768x32768 hold more than 2147483639 elements, the limit of one"
                        + " matrix; split the matrix",
                1 << 15,
                1 << 16,
                1 << 15,
                1 << 15,
                new int[] {0, 2},
                0,
                1);
        // A block of the largest legal shape.
        rejects(
                "1 blocks of 2147483638x2147483638 hold more than 2147483639 elements, the limit of"
                        + " one matrix; split the matrix",
                2147483638,
                2147483638,
                2147483638,
                2147483638,
                new int[] {0, 1},
                0);
    }
}
