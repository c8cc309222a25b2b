/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.fail;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.Block;
import ai.djl.nn.Parameter;
import ai.djl.training.ParameterStore;
import io.djlbsr.BsrMatrix;
import io.djlbsr.BsrPatterns;
import io.djlbsr.BsrStructure;
import java.util.Locale;
import java.util.Random;

/** Random layers, and the exact result of a block-sparse layer in double with an error bound. */
public final class LinearOracle {

    private LinearOracle() {}

    /** Random blocks with normal values; density 0 and 1 give no and all blocks. */
    public static BsrMatrix random(
            Random random, int rows, int cols, int blockRows, int blockCols, double density) {
        return BsrPatterns.matrix(
                BsrPatterns.Pattern.RANDOM,
                rows,
                cols,
                blockRows,
                blockCols,
                density,
                random.nextLong());
    }

    public static float[] normal(Random random, int size) {
        return BsrPatterns.normal(size, random.nextLong());
    }

    public static NDArray input(Random random, NDManager manager, DataType type, long... shape) {
        Shape s = new Shape(shape);
        return manager.create(normal(random, (int) s.size()), s).toType(type, false);
    }

    public static NDArray forward(Block block, NDArray input, boolean training) {
        ParameterStore store = new ParameterStore(input.getManager(), false);
        return block.forward(store, new NDList(input), training).singletonOrThrow();
    }

    /** The values of a parameter as doubles. */
    public static double[] values(NDArray array) {
        try (NDArray wide = array.toType(DataType.FLOAT64, true)) {
            return wide.toDoubleArray();
        }
    }

    /** Checks every element of y = act(x·Wᵀ + b) against {@code γ·Σ|w·x|} of its summation. */
    public static void assertLinear(
            BsrStructure s,
            double[] blocks,
            double[] bias,
            BsrActivation activation,
            NDArray input,
            NDArray actual) {
        double u = unit(actual.getDataType());
        // PyTorch sums float16 in float32.
        double accumulation = Math.min(u, 0x1p-24);
        double[] x = values(input);
        double[] y = values(actual);
        int tokens = s.getCols() == 0 ? 0 : x.length / s.getCols();
        assertEquals((long) tokens * s.getRows(), y.length, "elements of the output");
        int area = s.getBlockRows() * s.getBlockCols();
        for (int t = 0; t < tokens; t++) {
            for (int row = 0; row < s.getRows(); row++) {
                double sum = bias == null ? 0 : bias[row];
                double magnitude = Math.abs(sum);
                int terms = 2;
                int blockRow = row / s.getBlockRows();
                for (int k = s.crow(blockRow); k < s.crow(blockRow + 1); k++) {
                    for (int c = 0; c < s.getBlockCols(); c++) {
                        double w = blocks[k * area + row % s.getBlockRows() * s.getBlockCols() + c];
                        double product = w * x[t * s.getCols() + s.col(k) * s.getBlockCols() + c];
                        sum += product;
                        magnitude += Math.abs(product);
                        terms++;
                    }
                }
                double expected = activate(sum, activation);
                double error = terms * accumulation * magnitude;
                if (accumulation < u) {
                    // The product is rounded before the bias is added.
                    error += 2 * u * (Math.abs(bias == null ? sum : sum - bias[row]) + error);
                }
                if (activation != BsrActivation.NONE) {
                    // The slope is below 1.13; erf, tanh and exp are good to some units, and this
                    // class's erf to 1e-13.
                    error = 1.13 * error + Math.max(16 * u, 1e-13) * Math.abs(sum);
                }
                check(t, row, expected, y[t * s.getRows() + row], error + u * Math.abs(expected));
            }
        }
    }

    private static void check(int token, int row, double expected, double actual, double bound) {
        boolean same =
                Double.isFinite(expected)
                        ? Math.abs(expected - actual) <= bound
                        : Double.compare(expected, actual) == 0;
        if (!same) {
            fail(
                    String.format(
                            Locale.ROOT,
                            "token %d, row %d: expected %s, actual %s, bound %s",
                            token,
                            row,
                            expected,
                            actual,
                            bound));
        }
    }

    /** Checks two arrays element by element; both may have errors of {@code units} roundings. */
    public static void assertClose(NDArray expected, NDArray actual, double absolute) {
        assertEquals(expected.getShape(), actual.getShape(), "shape");
        double[] e = values(expected);
        double[] a = values(actual);
        for (int i = 0; i < e.length; i++) {
            check(i / cols(expected), i % cols(expected), e[i], a[i], absolute);
        }
    }

    private static int cols(NDArray array) {
        Shape shape = array.getShape();
        return shape.dimension() == 0 ? 1 : (int) Math.max(1, shape.get(shape.dimension() - 1));
    }

    private static double unit(DataType type) {
        return switch (type) {
            case FLOAT16 -> 0x1p-11;
            case FLOAT32 -> 0x1p-24;
            case FLOAT64 -> 0x1p-53;
            default -> throw new IllegalArgumentException("data type " + type);
        };
    }

    /** The activation in double. */
    public static double activate(double z, BsrActivation activation) {
        return switch (activation) {
            case NONE -> z;
            case RELU -> Double.isNaN(z) ? z : Math.max(z, 0);
            case GELU -> z / 2 * (1 + erf(z / Math.sqrt(2)));
            case GELU_TANH ->
                    z / 2 * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (z + 0.044715 * z * z * z)));
            case SILU -> z / (1 + Math.exp(-z));
        };
    }

    /** Simpson's rule, good to 1e-13. */
    private static double erf(double x) {
        double end = Math.max(-7, Math.min(7, x));
        int steps = 2000;
        double h = end / steps;
        double sum = 1 + Math.exp(-end * end);
        for (int i = 1; i < steps; i++) {
            sum += (i % 2 == 1 ? 4 : 2) * Math.exp(-(i * h) * (i * h));
        }
        return 2 / Math.sqrt(Math.PI) * sum * h / 3;
    }

    /** Sets the arrays of a layer's parameters to the ones of another layer. */
    public static NDArray array(Block block, String name) {
        Parameter parameter = block.getDirectParameters().get(name);
        return parameter == null ? null : parameter.getArray();
    }
}
