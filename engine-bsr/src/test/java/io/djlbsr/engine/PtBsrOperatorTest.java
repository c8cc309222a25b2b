/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import ai.djl.Device;
import ai.djl.engine.Engine;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import io.djlbsr.BsrMatrix;
import io.djlbsr.jni.global.DjlBsr;
import io.djlbsr.nn.BsrActivation;
import io.djlbsr.operator.BsrOperator;
import io.djlbsr.operator.BsrOperators;
import io.djlbsr.operator.PackedBsrWeight;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Random;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/** The operator's numbers, on every device, against {@link Oracle}. */
class PtBsrOperatorTest {

    /** Square, thin, tall, odd; 1x1 and those that the kernels treat apart. */
    private static final int[][] BLOCKS = {
        {1, 1},
        {4, 4},
        {8, 8},
        {16, 16},
        {32, 32},
        {64, 64},
        {128, 128},
        {1, 32},
        {32, 1},
        {16, 64},
        {5, 7}
    };

    /** None, one, below and above the kernels' token tiles, and beyond their last full one. */
    private static final int[] TOKENS = {0, 1, 2, 7, 33, 130};

    private Random random;

    @BeforeEach
    void seed() {
        random = new Random(7);
    }

    static Stream<Arguments> devicesAndTypes() {
        return Stream.of(Device.cpu(), Device.gpu())
                .flatMap(
                        device ->
                                Stream.of(DataType.FLOAT32, DataType.FLOAT16)
                                        .map(type -> Arguments.of(device, type)));
    }

    private static NDManager manager(Device device) {
        Engine engine = Engine.getEngine("PyTorch");
        if (device.isGpu()) {
            assumeTrue(engine.getGpuCount() > 0, "PyTorch sees no GPU");
            assumeTrue(
                    BsrNative.unavailable().isPresent() || DjlBsr.djlbsr_cuda_device_count() > 0,
                    "libdjlbsr sees no GPU");
        }
        return engine.newBaseManager(device);
    }

    private static PackedBsrWeight pack(NDManager manager, BsrMatrix matrix, DataType type) {
        return new PtBsrOperator()
                .pack(manager, matrix.getStructure(), matrix.toValuesArray(manager, type));
    }

    @ParameterizedTest
    @MethodSource("devicesAndTypes")
    void everyBlockShapePatternAndTokenCount(Device device, DataType type) {
        for (int[] block : BLOCKS) {
            for (Pattern pattern : Pattern.values()) {
                int[] grid = {1 + random.nextInt(4), 1 + random.nextInt(5)};
                BsrMatrix matrix = pattern.matrix(grid[0], grid[1], block, random);
                try (NDManager manager = manager(device);
                        PackedBsrWeight packed = pack(manager, matrix, type)) {
                    for (int tokens : TOKENS) {
                        // Each combination is met over the blocks and patterns.
                        BsrActivation activation = BsrActivation.ofCode(random.nextInt(5));
                        int cols = matrix.getStructure().getCols();
                        int rows = matrix.getStructure().getRows();
                        NDArray input = Oracle.random(manager, random, type, tokens, cols);
                        NDArray bias =
                                random.nextBoolean()
                                        ? Oracle.random(manager, random, type, rows)
                                        : null;
                        NDArray output = packed.linear(input, bias, activation);
                        String what =
                                Arrays.toString(block)
                                        + ' '
                                        + pattern
                                        + ' '
                                        + Arrays.toString(grid)
                                        + ' '
                                        + activation
                                        + (bias == null ? "" : " bias");
                        assertEquals(new Shape(tokens, rows), output.getShape(), what);
                        assertEquals(type, output.getDataType(), what);
                        Oracle.check(what, output, matrix, input, bias, activation);
                    }
                }
            }
        }
    }

    @ParameterizedTest
    @MethodSource("devicesAndTypes")
    void everyActivationWithAndWithoutBias(Device device, DataType type) {
        BsrMatrix matrix = Pattern.RANDOM.matrix(5, 9, new int[] {16, 16}, random);
        try (NDManager manager = manager(device);
                PackedBsrWeight packed = pack(manager, matrix, type)) {
            NDArray input = Oracle.random(manager, random, type, 21, 144);
            NDArray bias = Oracle.random(manager, random, type, 80);
            for (BsrActivation activation : BsrActivation.values()) {
                for (NDArray b : new NDArray[] {null, bias}) {
                    Oracle.check(
                            activation + (b == null ? "" : " bias"),
                            packed.linear(input, b, activation),
                            matrix,
                            input,
                            b,
                            activation);
                }
            }
        }
    }

    @ParameterizedTest
    @MethodSource("devicesAndTypes")
    void stridesChangeNoBit(Device device, DataType type) {
        BsrMatrix matrix = Pattern.RANDOM.matrix(3, 4, new int[] {5, 6}, random);
        int cols = 24;
        try (NDManager manager = manager(device);
                PackedBsrWeight packed = pack(manager, matrix, type)) {
            Map<String, NDArray> inputs = new LinkedHashMap<>();
            inputs.put("transposed", Oracle.random(manager, random, type, cols, 9).transpose());
            inputs.put(
                    "columns of a wider array",
                    Oracle.random(manager, random, type, 9, cols + 5).get(":, 3:" + (cols + 3)));
            inputs.put(
                    "every second row", Oracle.random(manager, random, type, 9, cols).get("::2"));
            inputs.put(
                    "every second column",
                    Oracle.random(manager, random, type, 9, 2L * cols).get(":, ::2"));
            inputs.put(
                    "one row repeated",
                    Oracle.random(manager, random, type, 1, cols).broadcast(new Shape(9, cols)));
            inputs.put(
                    "one column repeated",
                    Oracle.random(manager, random, type, 9, 1).broadcast(new Shape(9, cols)));
            inputs.put(
                    "swapped leading dimensions",
                    Oracle.random(manager, random, type, 2, 5, cols).transpose(1, 0, 2));
            inputs.put(
                    "a middle dimension repeated",
                    Oracle.random(manager, random, type, 2, 1, cols)
                            .broadcast(new Shape(2, 3, cols)));
            inputs.put("one dimension", Oracle.random(manager, random, type, cols));
            inputs.put("four dimensions", Oracle.random(manager, random, type, 2, 1, 3, cols));
            inputs.put("an empty dimension", Oracle.random(manager, random, type, 2, 0, cols));
            NDArray bias = Oracle.random(manager, random, type, 30).get("::2");
            inputs.forEach(
                    (name, input) -> {
                        NDArray output = packed.linear(input, bias, BsrActivation.NONE);
                        long[] shape = input.getShape().getShape().clone();
                        shape[shape.length - 1] = 15;
                        assertEquals(new Shape(shape), output.getShape(), name);
                        Oracle.check(name, output, matrix, input, bias, BsrActivation.NONE);
                        NDArray contiguous =
                                manager.create(Oracle.floats(input), input.getShape())
                                        .toType(type, false);
                        assertArrayEquals(
                                Oracle.floats(
                                        packed.linear(
                                                contiguous, bias.duplicate(), BsrActivation.NONE)),
                                Oracle.floats(output),
                                name);
                    });
        }
    }

    @ParameterizedTest
    @MethodSource("devicesAndTypes")
    void aTokenHasTheSameBitsAloneAndInABatch(Device device, DataType type) {
        BsrMatrix matrix = Pattern.RANDOM.matrix(6, 8, new int[] {32, 32}, random);
        try (NDManager manager = manager(device);
                PackedBsrWeight packed = pack(manager, matrix, type)) {
            NDArray input = Oracle.random(manager, random, type, 67, 256);
            NDArray batch = packed.linear(input, null, BsrActivation.GELU);
            for (int token : new int[] {0, 1, 31, 66}) {
                assertArrayEquals(
                        Oracle.floats(batch.get(token)),
                        Oracle.floats(packed.linear(input.get(token), null, BsrActivation.GELU)),
                        "token " + token);
            }
        }
    }

    @ParameterizedTest
    @MethodSource("devicesAndTypes")
    void whatIsOutsideTheStoredColumnsIsIgnored(Device device, DataType type) {
        BsrMatrix matrix = Pattern.ONE_BLOCK.matrix(2, 3, new int[] {4, 8}, random);
        try (NDManager manager = manager(device);
                PackedBsrWeight packed = pack(manager, matrix, type)) {
            float[] x = new float[3 * 24];
            for (int i = 0; i < x.length; ++i) {
                // The one block reads the last 8 columns.
                x[i] = i % 24 < 16 ? (i % 2 == 0 ? Float.NaN : Float.POSITIVE_INFINITY) : i;
            }
            NDArray input = manager.create(x, new Shape(3, 24)).toType(type, false);
            NDArray output = packed.linear(input, null, BsrActivation.NONE);
            Oracle.check("NaN outside", output, matrix, input, null, BsrActivation.NONE);
            assertTrue(Float.isFinite(output.toType(DataType.FLOAT32, false).sum().getFloat()));
        }
    }

    @Test
    void theRegistrySelectsIt() {
        try (NDManager manager = manager(Device.cpu())) {
            BsrOperator selected = BsrOperators.select(manager, Device.cpu(), DataType.FLOAT32);
            assertEquals(PtBsrOperator.class, selected.getClass());
        }
    }
}
