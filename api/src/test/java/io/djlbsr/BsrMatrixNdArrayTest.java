/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import io.djlbsr.BsrPatterns.Pattern;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** {@link BsrMatrix} from and to arrays of DJL's PyTorch engine. */
class BsrMatrixNdArrayTest {

    private static final BsrMatrix SAMPLE =
            BsrPatterns.matrix(Pattern.RANDOM, 20, 42, 5, 7, 0.5, 1);

    private NDManager manager;

    @BeforeEach
    void open() {
        manager = NDManager.newBaseManager("PyTorch");
    }

    @AfterEach
    void close() {
        manager.close();
    }

    @ParameterizedTest
    @EnumSource(Pattern.class)
    void comesBackFromDense(Pattern pattern) {
        BsrMatrix m = BsrPatterns.matrix(pattern, 48, 64, 16, 8, 0.3, 1);
        NDArray dense = m.toDense(manager);
        assertEquals(new Shape(48, 64), dense.getShape());
        assertEquals(m, BsrMatrix.fromDense(dense, 16, 8, 0));
        assertEquals(m, BsrMatrix.fromDense(dense.toType(DataType.FLOAT64, false), 16, 8, 0));
        NDArray half = dense.toType(DataType.FLOAT16, false);
        assertEquals(
                BsrMatrix.fromDense(half.toType(DataType.FLOAT32, false), 16, 8, 0),
                BsrMatrix.fromDense(half, 16, 8, 0));
    }

    @Test
    void readsArraysOfAnyStrides() {
        NDArray dense = SAMPLE.toDense(manager);
        assertEquals(SAMPLE.transpose(), BsrMatrix.fromDense(dense.transpose(), 7, 5, 0));
        assertEquals(
                SAMPLE.transpose(),
                BsrMatrix.fromDense(dense.toType(DataType.FLOAT64, false).transpose(), 7, 5, 0));
        float[] elements = SAMPLE.toDense();
        float[] right = new float[20 * 21];
        for (int k = 0; k < right.length; k++) {
            right[k] = elements[k / 21 * 42 + 21 + k % 21];
        }
        assertEquals(
                BsrMatrix.fromDense(right, 20, 21, 5, 7, 0),
                BsrMatrix.fromDense(dense.get(":, 21:"), 5, 7, 0));
        NDArray row = manager.create(new float[] {1, 0, 2}, new Shape(1, 3));
        assertEquals(
                BsrMatrix.fromDense(new float[] {1, 0, 2, 1, 0, 2}, 2, 3, 1, 1, 0),
                BsrMatrix.fromDense(row.broadcast(2, 3), 1, 1, 0));
    }

    @Test
    void valuesKeepShapeAndType() {
        Shape shape = new Shape(SAMPLE.getStructure().getNnzb(), 5, 7);
        float[] expected = SAMPLE.getValues();
        for (DataType type :
                new DataType[] {DataType.FLOAT32, DataType.FLOAT16, DataType.FLOAT64}) {
            NDArray values = SAMPLE.toValuesArray(manager, type);
            assertEquals(shape, values.getShape());
            assertEquals(type, values.getDataType());
            float tolerance = type == DataType.FLOAT16 ? 0x1p-11f : 0;
            float[] actual = values.toType(DataType.FLOAT32, false).toFloatArray();
            for (int k = 0; k < expected.length; k++) {
                // float16 keeps 11 bits, and steps of 2^-24 near 0.
                float bound = tolerance * Math.max(Math.abs(expected[k]), 0x1p-14f);
                assertEquals(expected[k], actual[k], bound, type + " element " + k);
            }
        }
        BsrMatrix none = BsrPatterns.matrix(Pattern.EMPTY, 4, 4, 2, 2, 0, 0);
        assertEquals(new Shape(0, 2, 2), none.toValuesArray(manager, DataType.FLOAT16).getShape());
    }

    @Test
    void matricesWithoutElementsComeBack() {
        for (int[] shape : new int[][] {{0, 8}, {8, 0}, {0, 0}}) {
            BsrMatrix m = BsrPatterns.matrix(Pattern.FULL, shape[0], shape[1], 4, 2, 1, 1);
            NDArray dense = m.toDense(manager);
            assertEquals(new Shape(shape[0], shape[1]), dense.getShape());
            assertEquals(m, BsrMatrix.fromDense(dense, 4, 2, 0));
        }
    }

    @Test
    void rejectsArraysThatAreNoMatrix() {
        NDArray cube = manager.zeros(new Shape(2, 2, 2));
        Cases.assertRejects(
                "dense has shape (2, 2, 2); it must be [rows, cols]",
                () -> BsrMatrix.fromDense(cube, 1, 1, 0));
        NDArray ints = manager.zeros(new Shape(2, 2), DataType.INT32);
        Cases.assertRejects(
                "dense has data type INT32; convert it to FLOAT32, FLOAT16 or FLOAT64",
                () -> BsrMatrix.fromDense(ints, 1, 1, 0));
        NDArray odd = manager.zeros(new Shape(2, 3));
        Cases.assertRejects(
                "cols 3 is not a multiple of blockCols 2; pad the matrix or choose a block shape"
                        + " that divides it",
                () -> BsrMatrix.fromDense(odd, 2, 2, 0));
        NDArray large = manager.zeros(new Shape(1, 1)).broadcast(1 << 15, 1 << 14);
        Cases.assertRejects(
                "dense has shape (32768, 16384), more than the 2 GiB that an NDArray can hand out;"
                        + " split it by rows",
                () -> BsrMatrix.fromDense(large, 1, 1, 0));
        Cases.assertRejects(
                "dataType is BFLOAT16; use FLOAT32, FLOAT16 or FLOAT64",
                () -> SAMPLE.toValuesArray(manager, DataType.BFLOAT16));
        Cases.assertRejects("dataType is null", () -> SAMPLE.toValuesArray(manager, null));
        Cases.assertRejects("dense is null", () -> BsrMatrix.fromDense(null, 1, 1, 0));
    }

    @Test
    void closedArraysAndManagersThrow() {
        NDArray dense = SAMPLE.toDense(manager);
        dense.close();
        assertThrows(IllegalStateException.class, () -> BsrMatrix.fromDense(dense, 5, 7, 0));
        NDManager closed = manager.newSubManager();
        closed.close();
        assertThrows(IllegalStateException.class, () -> SAMPLE.toDense(closed));
    }

    @Test
    void leavesNoArraysBehind() {
        int before = manager.getManagedArrays().size();
        NDArray values = SAMPLE.toValuesArray(manager, DataType.FLOAT16);
        assertEquals(before + 1, manager.getManagedArrays().size());
        values.close();
        assertArrayEquals(SAMPLE.toDense(), SAMPLE.toDense(manager).toFloatArray());
    }
}
