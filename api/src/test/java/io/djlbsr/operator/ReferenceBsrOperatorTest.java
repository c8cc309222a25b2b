/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.operator;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ai.djl.Device;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.NDScope;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import io.djlbsr.BsrMatrix;
import io.djlbsr.BsrPatterns;
import io.djlbsr.BsrStructure;
import io.djlbsr.nn.BsrActivation;
import io.djlbsr.nn.LinearOracle;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

class ReferenceBsrOperatorTest {

    private static final DataType[] TYPES = {DataType.FLOAT16, DataType.FLOAT32, DataType.FLOAT64};

    private final BsrOperator operator = new ReferenceBsrOperator();

    @ParameterizedTest
    @EnumSource(BsrActivation.class)
    void matchesDoubleForRandomLayers(BsrActivation activation) {
        int[][] blockShapes = {{1, 1}, {4, 4}, {1, 8}, {8, 1}, {16, 4}, {32, 32}};
        Random random = new Random(7);
        try (NDManager manager = NDManager.newBaseManager()) {
            for (DataType type : TYPES) {
                for (int[] b : blockShapes) {
                    for (BsrPatterns.Pattern pattern : BsrPatterns.Pattern.values()) {
                        int rows = b[0] * (1 + random.nextInt(4));
                        int cols = b[1] * (1 + random.nextInt(4));
                        BsrMatrix w =
                                BsrPatterns.matrix(
                                        pattern, rows, cols, b[0], b[1], 0.4, random.nextLong());
                        NDArray values = w.toValuesArray(manager, type);
                        NDArray bias =
                                random.nextBoolean()
                                        ? LinearOracle.input(random, manager, type, rows)
                                        : null;
                        int tokens = random.nextInt(4);
                        NDArray x = LinearOracle.input(random, manager, type, tokens, cols);
                        try (PackedBsrWeight packed =
                                operator.pack(manager, w.getStructure(), values)) {
                            NDArray y = packed.linear(x, bias, activation);
                            assertEquals(new Shape(tokens, rows), y.getShape());
                            assertEquals(type, y.getDataType());
                            LinearOracle.assertLinear(
                                    w.getStructure(),
                                    LinearOracle.values(values),
                                    bias == null ? null : LinearOracle.values(bias),
                                    activation,
                                    x,
                                    y);
                        }
                    }
                }
            }
        }
    }

    @Test
    void nonFiniteInputReachesOnlyTheRowsThatUseIt() {
        Random random = new Random(3);
        try (NDManager manager = NDManager.newBaseManager()) {
            // Columns 4..7 are in no block of block-row 0, and in none at all of row 1.
            BsrMatrix w =
                    BsrMatrix.builder(12, 12, 4, 4)
                            .add(0, 0, LinearOracle.normal(random, 16))
                            .add(0, 2, LinearOracle.normal(random, 16))
                            .add(2, 1, LinearOracle.normal(random, 16))
                            .build();
            for (DataType type : TYPES) {
                NDArray values = w.toValuesArray(manager, type);
                NDArray bias = LinearOracle.input(random, manager, type, 12);
                for (float bad :
                        new float[] {Float.NaN, Float.POSITIVE_INFINITY, Float.NEGATIVE_INFINITY}) {
                    float[] x = LinearOracle.normal(random, 2 * 3 * 12);
                    x[12 + 5] = bad;
                    NDArray input = manager.create(x, new Shape(2, 3, 12)).toType(type, false);
                    PackedBsrWeight packed = operator.pack(manager, w.getStructure(), values);
                    NDArray y = packed.linear(input, bias, BsrActivation.NONE);
                    assertEquals(new Shape(2, 3, 12), y.getShape());
                    double[] blocks = LinearOracle.values(values);
                    double[] b = LinearOracle.values(bias);
                    LinearOracle.assertLinear(
                            w.getStructure(), blocks, b, BsrActivation.NONE, input, y);
                }
            }
        }
    }

    @Test
    void explicitZeroTimesNanIsNan() {
        try (NDManager manager = NDManager.newBaseManager()) {
            BsrStructure s = BsrStructure.of(2, 2, 1, 1, new int[] {0, 1, 1}, new int[] {0});
            NDArray values = manager.zeros(new Shape(1, 1, 1));
            NDArray x = manager.create(new float[] {Float.NaN, 1}, new Shape(1, 2));
            float[] y =
                    operator.pack(manager, s, values)
                            .linear(x, null, BsrActivation.NONE)
                            .toFloatArray();
            assertTrue(Float.isNaN(y[0]), "the block is stored");
            assertEquals(0f, y[1], "no block is stored");
        }
    }

    @Test
    void seesChangesInPlace() {
        Random random = new Random(5);
        try (NDManager manager = NDManager.newBaseManager()) {
            BsrMatrix w = LinearOracle.random(random, 8, 8, 4, 4, 0.7);
            NDArray values = w.toValuesArray(manager, DataType.FLOAT32);
            PackedBsrWeight packed = operator.pack(manager, w.getStructure(), values);
            NDArray x = LinearOracle.input(random, manager, DataType.FLOAT32, 3, 8);
            packed.linear(x, null, BsrActivation.NONE);
            values.muli(2);
            values.set(LinearOracle.normal(random, (int) values.size()));
            assertTrue(packed.isCurrent(values));
            LinearOracle.assertLinear(
                    w.getStructure(),
                    LinearOracle.values(values),
                    null,
                    BsrActivation.NONE,
                    x,
                    packed.linear(x, null, BsrActivation.NONE));
            NDArray other = values.add(1);
            assertFalse(packed.isCurrent(other));
        }
    }

    @Test
    void activatesFloat16WithOneRounding() {
        try (NDManager manager = NDManager.newBaseManager()) {
            BsrStructure one = BsrStructure.of(1, 1, 1, 1, new int[] {0, 1}, new int[] {0});
            NDArray values = manager.ones(new Shape(1, 1, 1), DataType.FLOAT16);
            PackedBsrWeight packed = operator.pack(manager, one, values);
            NDArray x = manager.arange(-4f, 4f, 0.125f).toType(DataType.FLOAT16, false);
            double[] z = LinearOracle.values(x);
            for (BsrActivation activation : BsrActivation.values()) {
                NDArray y = packed.linear(x.reshape(-1, 1), null, activation);
                double[] actual = LinearOracle.values(y);
                for (int i = 0; i < z.length; i++) {
                    double expected = LinearOracle.activate(z[i], activation);
                    // float's cancellation at small results, and the rounding to FLOAT16
                    double bound = 0x1p-20 + 0x1p-11 * Math.abs(expected);
                    assertEquals(expected, actual[i], bound, activation + " of " + z[i]);
                }
            }
        }
    }

    @Test
    void leavesNoArraysBehind() {
        Random random = new Random(5);
        try (NDManager manager = NDManager.newBaseManager();
                NDManager weights = manager.newSubManager();
                NDManager inputs = manager.newSubManager()) {
            BsrMatrix w = LinearOracle.random(random, 8, 8, 4, 4, 0.7);
            NDArray values = w.toValuesArray(weights, DataType.FLOAT32);
            PackedBsrWeight packed = operator.pack(weights, w.getStructure(), values);
            NDArray x = LinearOracle.input(random, inputs, DataType.FLOAT32, 3, 8);
            NDArray bad = x.mul(Float.NaN);
            int before = weights.getManagedArrays().size();
            int inputsBefore = inputs.getManagedArrays().size();
            packed.linear(x, null, BsrActivation.GELU_TANH).close();
            packed.linear(bad, null, BsrActivation.GELU).close();
            assertEquals(before, weights.getManagedArrays().size(), "arrays of the weight");
            assertEquals(inputsBefore, inputs.getManagedArrays().size(), "arrays of the input");
        }
    }

    @Test
    void packedWeightOutlivesAScope() {
        try (NDManager manager = NDManager.newBaseManager()) {
            BsrStructure s = BsrStructure.of(1, 1, 1, 1, new int[] {0, 1}, new int[] {0});
            NDArray values = manager.ones(new Shape(1, 1, 1));
            PackedBsrWeight packed;
            try (NDScope scope = new NDScope()) {
                scope.suppressNotUsedWarning();
                packed = operator.pack(manager, s, values);
            }
            assertFalse(packed.isReleased());
        }
    }

    @Test
    void closesWithItsManagerAndTwice() {
        try (NDManager manager = NDManager.newBaseManager()) {
            BsrStructure s = BsrStructure.of(1, 1, 1, 1, new int[] {0, 1}, new int[] {0});
            NDArray values = manager.ones(new Shape(1, 1, 1));
            NDArray x = manager.ones(new Shape(1, 1));
            NDManager sub = manager.newSubManager();
            PackedBsrWeight packed = operator.pack(sub, s, values);
            assertFalse(packed.isReleased());
            sub.close();
            assertTrue(packed.isReleased());
            packed.close();
            packed.close();
            assertThrows(
                    IllegalStateException.class, () -> packed.linear(x, null, BsrActivation.NONE));
        }
    }

    @Test
    void refusesWhatDoesNotFit() {
        try (NDManager manager = NDManager.newBaseManager()) {
            BsrStructure s = BsrStructure.of(4, 6, 2, 3, new int[] {0, 1, 1}, new int[] {1});
            NDArray values = manager.ones(new Shape(1, 2, 3));
            PackedBsrWeight packed = operator.pack(manager, s, values);
            assertMessage(
                    "(2, 3, 2)", () -> operator.pack(manager, s, manager.ones(new Shape(2, 3, 2))));
            NDArray x = manager.ones(new Shape(2, 6));
            assertMessage(
                    "6 columns",
                    () -> packed.linear(manager.ones(new Shape(2, 5)), null, BsrActivation.NONE));
            assertMessage(
                    "6 columns", () -> packed.linear(manager.create(1f), null, BsrActivation.NONE));
            assertMessage(
                    "(4)", () -> packed.linear(x, manager.ones(new Shape(3)), BsrActivation.NONE));
            assertMessage(
                    "float64",
                    () ->
                            packed.linear(
                                    x.toType(DataType.FLOAT64, true), null, BsrActivation.NONE));
            BsrStructure huge = BsrStructure.of(50000, 50000, 1, 1, new int[50001], new int[0]);
            NDArray none = manager.zeros(new Shape(0, 1, 1));
            String message =
                    assertThrows(
                                    UnsupportedOperationException.class,
                                    () -> operator.pack(manager, huge, none))
                            .getMessage();
            assertTrue(message.contains("2500000000 blocks"), message);
            assertTrue(
                    operator.rejectionReason(manager, Device.cpu(), DataType.BFLOAT16).isPresent());
            assertThrows(
                    UnsupportedOperationException.class,
                    () -> operator.pack(manager, s, values.toType(DataType.INT32, true)));
        }
    }

    private static void assertMessage(
            String part, org.junit.jupiter.api.function.Executable executable) {
        String message = assertThrows(IllegalArgumentException.class, executable).getMessage();
        assertTrue(message.contains(part), () -> "'" + message + "' lacks '" + part + "'");
    }
}
