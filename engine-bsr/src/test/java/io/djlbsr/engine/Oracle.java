/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import static org.junit.jupiter.api.Assertions.fail;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import io.djlbsr.BsrMatrix;
import io.djlbsr.BsrStructure;
import io.djlbsr.nn.BsrActivation;
import java.util.Random;

/** The double-precision oracle of {@code act(x · Wᵀ + bias)} and the error that it allows. */
final class Oracle {

    private static final double FLOAT_ROUNDING = 0x1p-24;
    private static final double HALF_ROUNDING = 0x1p-11;
    private static final double HALF_TINY = 0x1p-25;

    /** The slope of GELU and SiLU stays below this. */
    private static final double MAX_SLOPE = 1.13;

    /** What evaluating GELU or SiLU in fp32 may add, in roundings of its argument. */
    private static final double ACTIVATION_ROUNDINGS = 8;

    private Oracle() {}

    /**
     * Compares an output with the oracle, element by element.
     *
     * <p>The sum of n products in fp32 is off by at most γ(n+1)·(Σ|w·x| + |bias|), γ(n) = n·u/(1 −
     * n·u), in any order. The activation scales that by its slope and adds its own roundings, and
     * an fp16 output is rounded once more.
     */
    static void check(
            String what,
            NDArray output,
            BsrMatrix weight,
            NDArray input,
            NDArray bias,
            BsrActivation activation) {
        BsrStructure s = weight.getStructure();
        float[] x = floats(input);
        float[] b = bias == null ? null : floats(bias);
        float[] y = floats(output);
        int cols = s.getCols();
        int rows = s.getRows();
        int tokens = cols == 0 ? (int) (output.size() / Math.max(rows, 1)) : x.length / cols;
        boolean half = output.getDataType() == DataType.FLOAT16;
        float[] w = floatsOf(weight, output.getManager(), output.getDataType());
        double[] sum = new double[y.length];
        double[] size = new double[y.length];
        double[] terms = new double[y.length];
        for (int t = 0; t < tokens; ++t) {
            for (int r = 0; r < rows; ++r) {
                int i = t * rows + r;
                if (b != null) {
                    sum[i] = b[r];
                    size[i] = Math.abs(sum[i]);
                }
                int blockRow = r / s.getBlockRows();
                for (int k = s.crow(blockRow); k < s.crow(blockRow + 1); ++k) {
                    int block = (k * s.getBlockRows() + r % s.getBlockRows()) * s.getBlockCols();
                    for (int c = 0; c < s.getBlockCols(); ++c) {
                        double product =
                                (double) w[block + c]
                                        * x[t * cols + s.col(k) * s.getBlockCols() + c];
                        sum[i] += product;
                        size[i] += Math.abs(product);
                    }
                }
                terms[i] =
                        (double) (s.crow(blockRow + 1) - s.crow(blockRow)) * s.getBlockCols() + 1;
            }
        }
        double[] expected = activate(activation, sum, output.getManager());
        boolean curved = activation.compareTo(BsrActivation.RELU) > 0;
        for (int i = 0; i < y.length; ++i) {
            double gamma = terms[i] * FLOAT_ROUNDING / (1 - terms[i] * FLOAT_ROUNDING);
            double bound = gamma * size[i] + Float.MIN_VALUE;
            if (curved) {
                bound = MAX_SLOPE * bound + ACTIVATION_ROUNDINGS * FLOAT_ROUNDING * size[i];
            }
            if (half) {
                bound += HALF_ROUNDING * (Math.abs(expected[i]) + bound) + HALF_TINY;
            }
            double error = Math.abs(y[i] - expected[i]);
            if (!(error <= bound) && !(Double.isNaN(expected[i]) && Float.isNaN(y[i]))) {
                fail(
                        what
                                + ": row "
                                + i / rows
                                + ", column "
                                + i % rows
                                + ": expected "
                                + expected[i]
                                + ", actual "
                                + y[i]
                                + ", error "
                                + error
                                + " over the bound "
                                + bound);
            }
        }
    }

    /** Returns an array's elements, in order, whatever its strides. */
    static float[] floats(NDArray array) {
        try (NDArray copy = array.toType(DataType.FLOAT32, true)) {
            return copy.toFloatArray();
        }
    }

    private static float[] floatsOf(BsrMatrix weight, NDManager manager, DataType type) {
        try (NDArray values = weight.toValuesArray(manager, type)) {
            return floats(values);
        }
    }

    private static double[] activate(BsrActivation activation, double[] z, NDManager manager) {
        double[] y = new double[z.length];
        if (activation == BsrActivation.GELU) {
            if (z.length == 0) {
                return y;
            }
            // Java has no error function; PyTorch has it in double.
            try (NDArray array = manager.create(z);
                    NDArray result = array.getNDArrayInternal().gelu()) {
                return result.toDoubleArray();
            }
        }
        for (int i = 0; i < z.length; ++i) {
            double v = z[i];
            y[i] =
                    switch (activation) {
                        case NONE -> v;
                        case RELU -> Math.max(v, 0);
                        case GELU_TANH ->
                                v
                                        / 2
                                        * (1
                                                + Math.tanh(
                                                        Math.sqrt(2 / Math.PI)
                                                                * (v + 0.044715 * v * v * v)));
                        case SILU -> v / (1 + Math.exp(-v));
                        case GELU -> throw new AssertionError();
                    };
        }
        return y;
    }

    /** Returns normally distributed elements of a shape in a data type. */
    static NDArray random(NDManager manager, Random random, DataType type, long... shape) {
        float[] data = new float[(int) new Shape(shape).size()];
        for (int i = 0; i < data.length; ++i) {
            data[i] = (float) random.nextGaussian();
        }
        return manager.create(data, new Shape(shape)).toType(type, false);
    }
}
