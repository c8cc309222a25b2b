/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.jni;

import io.djlbsr.jni.global.DjlBsr;
import io.djlbsr.jni.global.djlbsr_info;
import io.djlbsr.jni.global.djlbsr_linear_args;
import io.djlbsr.jni.global.djlbsr_matrix;
import io.djlbsr.jni.global.djlbsr_meta;
import java.util.Arrays;
import java.util.Random;
import org.bytedeco.javacpp.BytePointer;
import org.bytedeco.javacpp.FloatPointer;
import org.bytedeco.javacpp.IntPointer;
import org.bytedeco.javacpp.Pointer;
import org.bytedeco.javacpp.PointerPointer;
import org.bytedeco.javacpp.ShortPointer;
import org.bytedeco.javacpp.indexer.Bfloat16Indexer;
import org.bytedeco.javacpp.indexer.HalfIndexer;

/**
 * One call of {@code djlbsr_linear} with a random weight on some device, and the check of its
 * output against float64.
 */
public final class LinearCall {

    private final DeviceMemory memory;
    private final int dtype;
    private final int[] block;
    private final int rows;
    private final int cols;
    private final int tokens;
    private final int[] crow;
    private final int[] col;
    private final float[] values;
    private final float[] x;
    private final float[] bias;
    private final djlbsr_meta meta = new djlbsr_meta();
    private final djlbsr_linear_args args = new djlbsr_linear_args();
    private final Pointer packed;
    private final Pointer y;

    /**
     * Packs a weight of blocks {@code block} = {rows, columns}, {@code grid} of them, of which
     * {@code density} are stored.
     */
    public LinearCall(
            DeviceMemory memory,
            int dtype,
            int[] block,
            int[] grid,
            double density,
            int tokens,
            long seed) {
        this.memory = memory;
        this.dtype = dtype;
        this.block = block;
        this.tokens = tokens;
        rows = block[0] * grid[0];
        cols = block[1] * grid[1];
        Random random = new Random(seed);
        crow = new int[grid[0] + 1];
        int[] stored = new int[grid[0] * grid[1]];
        for (int i = 0; i < grid[0]; ++i) {
            crow[i + 1] = crow[i];
            for (int j = 0; j < grid[1]; ++j) {
                if (random.nextDouble() < density) {
                    stored[crow[i + 1]++] = j;
                }
            }
        }
        col = Arrays.copyOf(stored, crow[grid[0]]);
        values = gaussian(random, col.length * block[0] * block[1]);
        x = gaussian(random, tokens * cols);
        bias = gaussian(random, rows);

        Pointer deviceValues = upload(values);
        try (djlbsr_matrix matrix = new djlbsr_matrix();
                djlbsr_info info = new djlbsr_info();
                IntPointer crowPointer = new IntPointer(crow);
                IntPointer colPointer = new IntPointer(Arrays.copyOf(col, col.length + 1))) {
            matrix.rows(rows).cols(cols).block_rows(block[0]).block_cols(block[1]).nnzb(col.length);
            matrix.crow_indices(crowPointer).col_indices(colPointer).values(deviceValues);
            matrix.dtype(dtype).weight_format(DjlBsr.DJLBSR_WEIGHT_AS_GIVEN);
            checkCall(DjlBsr.djlbsr_pack_query(matrix, memory.device(), meta));
            checkCall(DjlBsr.djlbsr_meta_decode(meta, info));
            packed = memory.allocate(info.packed_bytes());
            checkCall(DjlBsr.djlbsr_pack(matrix, meta, packed, memory.stream()));
        }
        y = memory.allocate((long) tokens * rows * size());
        args.x(upload(x)).bias(upload(bias)).y(y).stream(memory.stream());
        args.tokens(tokens).x_stride(cols).y_stride(rows).activation(DjlBsr.DJLBSR_RELU);
    }

    /** Queues the call and returns its status. */
    public int queue() {
        return DjlBsr.djlbsr_linear(meta, packed, args);
    }

    /** Returns the arguments, for calls that are wrong. */
    djlbsr_linear_args args() {
        return args;
    }

    /** Returns the name of the kernel that serves the call. */
    public String kernelName() {
        try (PointerPointer<BytePointer> name = new PointerPointer<>(1)) {
            checkCall(DjlBsr.djlbsr_kernel_name(meta, args, name));
            return name.get(BytePointer.class, 0).getString();
        }
    }

    /** Overwrites the output with NaN. */
    public void poison() {
        float[] nan = new float[tokens * rows];
        Arrays.fill(nan, Float.NaN);
        try (Pointer host = encode(nan)) {
            memory.upload(y, host, (long) nan.length * size());
        }
    }

    /**
     * Compares every element of the output that earlier calls left with float64.
     *
     * @throws AssertionError for the first element beyond its bound
     */
    public void check() {
        float[] actual = decode(tokens * rows);
        double[] xRow = new double[cols];
        for (int t = 0; t < tokens; ++t) {
            for (int i = 0; i < cols; ++i) {
                xRow[i] = x[t * cols + i];
            }
            for (int row = 0; row < rows; ++row) {
                checkElement(t, row, xRow, actual[t * rows + row]);
            }
        }
    }

    /** Throws what the library says about a failed call. */
    public static void checkCall(int status) {
        if (status != DjlBsr.DJLBSR_OK) {
            throw new AssertionError(status + ": " + DjlBsr.djlbsr_last_error());
        }
    }

    @Override
    public String toString() {
        return "dtype "
                + dtype
                + " weight "
                + rows
                + 'x'
                + cols
                + " blocks "
                + block[0]
                + 'x'
                + block[1]
                + " tokens "
                + tokens;
    }

    private void checkElement(int token, int row, double[] xRow, float actual) {
        double sum = bias[row];
        double magnitude = Math.abs(sum);
        int blockRow = row / block[0];
        for (int i = crow[blockRow]; i < crow[blockRow + 1]; ++i) {
            int first = (i * block[0] + row % block[0]) * block[1];
            for (int k = 0; k < block[1]; ++k) {
                double product = values[first + k] * xRow[col[i] * block[1] + k];
                sum += product;
                magnitude += Math.abs(product);
            }
        }
        // gamma_n of the sum in fp32, then one rounding to dtype.
        int terms = (crow[blockRow + 1] - crow[blockRow]) * block[1] + 2;
        double bound = terms * 0x1p-24 * magnitude;
        double unit =
                dtype == DjlBsr.DJLBSR_FLOAT32
                        ? 0x1p-24
                        : dtype == DjlBsr.DJLBSR_FLOAT16 ? 0x1p-11 : 0x1p-8;
        bound += unit * (Math.abs(sum) + bound) + 0x1p-25;
        double expected = Math.max(sum, 0);
        if (!(Math.abs(actual - expected) <= bound)) {
            throw new AssertionError(
                    this
                            + ": token "
                            + token
                            + " row "
                            + row
                            + " is "
                            + actual
                            + ", expected "
                            + expected
                            + ", allowed "
                            + bound);
        }
    }

    private int size() {
        return dtype == DjlBsr.DJLBSR_FLOAT32 ? 4 : 2;
    }

    /** Random numbers that dtype holds. */
    private float[] gaussian(Random random, int count) {
        float[] numbers = new float[count];
        for (int i = 0; i < count; ++i) {
            float number = (float) random.nextGaussian();
            numbers[i] =
                    dtype == DjlBsr.DJLBSR_FLOAT32
                            ? number
                            : dtype == DjlBsr.DJLBSR_FLOAT16
                                    ? HalfIndexer.toFloat(HalfIndexer.fromFloat(number))
                                    : Bfloat16Indexer.toFloat(Bfloat16Indexer.fromFloat(number));
        }
        return numbers;
    }

    private Pointer upload(float[] numbers) {
        Pointer device = memory.allocate((long) numbers.length * size());
        try (Pointer host = encode(numbers)) {
            memory.upload(device, host, (long) numbers.length * size());
        }
        return device;
    }

    private Pointer encode(float[] numbers) {
        if (dtype == DjlBsr.DJLBSR_FLOAT32) {
            return new FloatPointer(numbers);
        }
        short[] bits = new short[numbers.length];
        for (int i = 0; i < bits.length; ++i) {
            bits[i] =
                    (short)
                            (dtype == DjlBsr.DJLBSR_FLOAT16
                                    ? HalfIndexer.fromFloat(numbers[i])
                                    : Bfloat16Indexer.fromFloat(numbers[i]));
        }
        return new ShortPointer(bits);
    }

    private float[] decode(int count) {
        float[] numbers = new float[count];
        if (dtype == DjlBsr.DJLBSR_FLOAT32) {
            try (FloatPointer host = new FloatPointer((long) count)) {
                memory.download(host, y, 4L * count);
                host.get(numbers);
            }
            return numbers;
        }
        short[] bits = new short[count];
        try (ShortPointer host = new ShortPointer((long) count)) {
            memory.download(host, y, 2L * count);
            host.get(bits);
        }
        for (int i = 0; i < count; ++i) {
            int number = bits[i] & 0xffff;
            numbers[i] =
                    dtype == DjlBsr.DJLBSR_FLOAT16
                            ? HalfIndexer.toFloat(number)
                            : Bfloat16Indexer.toFloat(number);
        }
        return numbers;
    }
}
