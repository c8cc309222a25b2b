/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assertions.fail;

import ai.djl.Device;
import ai.djl.engine.Engine;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.SequentialBlock;
import ai.djl.nn.core.Linear;
import ai.djl.training.ParameterStore;
import io.djlbsr.BsrMatrix;
import io.djlbsr.BsrStructure;
import io.djlbsr.nn.BsrActivation;
import io.djlbsr.nn.BsrConverter;
import io.djlbsr.nn.BsrLinear;
import io.djlbsr.nn.ConversionPolicy;
import io.djlbsr.nn.ConversionReport;
import io.djlbsr.operator.BsrWeightFormat;
import io.djlbsr.operator.ReferenceBsrOperator;
import java.util.Arrays;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** {@link BsrWeightFormat#INT8} in a layer, to the bit, against what {@code djlbsr.h} specifies. */
class Int8WeightTest {

    private static final int[][] BLOCKS = {{1, 1}, {4, 4}, {5, 7}, {16, 16}, {32, 32}, {64, 48}};

    private final NDManager manager = Engine.getEngine("PyTorch").newBaseManager(Device.cpu());
    private final Random random = new Random(11);

    @AfterEach
    void close() {
        manager.close();
    }

    @Test
    void everyBlockShapePatternAndTokenCount() {
        for (int[] block : BLOCKS) {
            for (Pattern pattern : Pattern.values()) {
                BsrMatrix matrix =
                        pattern.matrix(1 + random.nextInt(4), 1 + random.nextInt(5), block, random);
                int rows = matrix.getStructure().getRows();
                int cols = matrix.getStructure().getCols();
                float[] bias = normal(rows);
                BsrLinear layer = layer(matrix, bias, BsrWeightFormat.INT8, DataType.FLOAT32);
                for (int tokens : new int[] {0, 1, 7, 33}) {
                    float[] x = normal(tokens * cols);
                    NDArray y = forward(layer, manager.create(x, new Shape(tokens, cols)), false);
                    assertEquals(new Shape(tokens, rows), y.getShape());
                    check(matrix, bias, x, y.toFloatArray(), pattern);
                }
            }
        }
    }

    @Test
    void theWeightIsSmallerAndTrainingKeepsItAsItIs() {
        BsrMatrix matrix = Pattern.FULL.matrix(4, 4, new int[] {32, 32}, random);
        BsrLinear int8 = layer(matrix, null, BsrWeightFormat.INT8, DataType.FLOAT32);
        BsrLinear given = layer(matrix, null, BsrWeightFormat.AS_GIVEN, DataType.FLOAT32);
        NDArray x = manager.create(normal(3 * 128), new Shape(3, 128));
        assertEquals(BsrWeightFormat.INT8, int8.getWeightFormat());
        Oracle.check("as given", forward(given, x, false), matrix, x, null, BsrActivation.NONE);
        forward(int8, x, false);
        assertTrue(
                int8.getPackedBytes() < given.getPackedBytes() / 3,
                int8.getPackedBytes() + " bytes against " + given.getPackedBytes());
        Oracle.check("training", forward(int8, x, true), matrix, x, null, BsrActivation.NONE);
        assertEquals(matrix, int8.getMatrix());
    }

    @Test
    void changedValuesArePackedAnew() {
        BsrMatrix matrix = Pattern.RANDOM.matrix(4, 4, new int[] {16, 16}, random);
        BsrLinear layer = layer(matrix, null, BsrWeightFormat.INT8, DataType.FLOAT32);
        NDArray x = manager.create(normal(2 * 64), new Shape(2, 64));
        forward(layer, x, false);
        layer.getParameters().get("weight").getArray().muli(-3);
        float[] values = matrix.getValues();
        for (int i = 0; i < values.length; ++i) {
            values[i] *= -3;
        }
        BsrMatrix changed = BsrMatrix.of(matrix.getStructure(), values);
        float[] y = forward(layer, x, false).toFloatArray();
        check(changed, new float[64], x.toFloatArray(), y, Pattern.RANDOM);
    }

    @Test
    void aConverterGivesItToTheLayersThatItSwaps() {
        BsrMatrix matrix = Pattern.RANDOM.matrix(4, 4, new int[] {16, 16}, random);
        float[] bias = normal(64);
        BsrLinear given = layer(matrix, bias, BsrWeightFormat.AS_GIVEN, DataType.FLOAT32);
        SequentialBlock model = new SequentialBlock().add(given.toLinear(manager));
        BsrConverter.builder()
                .addBlockShape(16, 16)
                .optPolicy(ConversionPolicy.all())
                .optWeightFormat(BsrWeightFormat.INT8)
                .build()
                .convert(model);
        BsrLinear layer = (BsrLinear) model.getChildren().get(0).getValue();
        assertEquals(BsrWeightFormat.INT8, layer.getWeightFormat());
        NDArray x = manager.create(normal(5 * 64), new Shape(5, 64));
        float[] y = forward(layer, x, false).toFloatArray();
        check(matrix, bias, x.toFloatArray(), y, Pattern.RANDOM);
    }

    @Test
    void aConverterLeavesLayersThatItIsNotFor() {
        BsrMatrix matrix = Pattern.RANDOM.matrix(4, 4, new int[] {16, 16}, random);
        BsrLinear given = layer(matrix, null, BsrWeightFormat.AS_GIVEN, DataType.FLOAT16);
        SequentialBlock model = new SequentialBlock().add(given.toLinear(manager));
        ConversionReport report =
                BsrConverter.builder()
                        .addBlockShape(16, 16)
                        .optPolicy(ConversionPolicy.all())
                        .optWeightFormat(BsrWeightFormat.INT8)
                        .build()
                        .convert(model);
        assertEquals(Linear.class, model.getChildren().get(0).getValue().getClass());
        String reason = report.getEntries().get(0).reason();
        assertTrue(reason.contains("float32"), reason);
        NDArray x = manager.ones(new Shape(2, 64), DataType.FLOAT16);
        model.forward(new ParameterStore(manager, false), new NDList(x), false);
    }

    @Test
    void whatIsNotServedIsRefused() {
        BsrMatrix matrix = Pattern.FULL.matrix(2, 2, new int[] {4, 4}, random);
        BsrLinear half = layer(matrix, null, BsrWeightFormat.INT8, DataType.FLOAT16);
        NDArray x = manager.ones(new Shape(3, 8), DataType.FLOAT16);
        refused(UnsupportedOperationException.class, () -> forward(half, x, false), "float32");

        float[] values = matrix.getValues();
        values[16 + 5] = Float.NaN;
        BsrMatrix spoiled = BsrMatrix.of(matrix.getStructure(), values);
        BsrLinear layer = layer(spoiled, null, BsrWeightFormat.INT8, DataType.FLOAT32);
        NDArray ones = manager.ones(new Shape(3, 8));
        refused(
                IllegalArgumentException.class,
                () -> forward(layer, ones, false),
                "values[1][1][1] is nan");

        refused(
                UnsupportedOperationException.class,
                () ->
                        new ReferenceBsrOperator()
                                .pack(
                                        manager,
                                        matrix.getStructure(),
                                        matrix.toValuesArray(manager, DataType.FLOAT32),
                                        BsrWeightFormat.INT8),
                "reference",
                "INT8",
                "AS_GIVEN");
        refused(
                NullPointerException.class,
                () -> BsrLinear.builder().optWeightFormat(null),
                "format is null");
    }

    private static void refused(
            Class<? extends RuntimeException> type, Runnable call, String... parts) {
        String message = assertThrows(type, call::run).getMessage();
        for (String part : parts) {
            assertTrue(message.contains(part), "no '" + part + "' in: " + message);
        }
    }

    private BsrLinear layer(
            BsrMatrix matrix, float[] bias, BsrWeightFormat format, DataType dataType) {
        BsrLinear.Builder builder =
                BsrLinear.builder().setMatrix(matrix).optWeightFormat(format).optBias(bias != null);
        if (bias != null) {
            builder.optBias(bias);
        }
        BsrLinear layer = builder.build();
        layer.initialize(manager, dataType, new Shape(1, matrix.getStructure().getCols()));
        return layer;
    }

    private NDArray forward(BsrLinear layer, NDArray input, boolean training) {
        ParameterStore store = new ParameterStore(manager, false);
        return layer.forward(store, new NDList(input), training).singletonOrThrow();
    }

    private float[] normal(int count) {
        float[] values = new float[count];
        for (int i = 0; i < count; ++i) {
            values[i] = (float) random.nextGaussian();
        }
        return values;
    }

    /** 127 steps for the largest magnitude, the scale of a step, and the steps. */
    private static final class Quantized {
        final float scale;
        final int[] steps;

        Quantized(float scale, int[] steps) {
            this.scale = scale;
            this.steps = steps;
        }

        static Quantized of(float[] values) {
            float most = 0;
            for (float value : values) {
                most = Math.max(most, Math.abs(value));
            }
            int[] steps = new int[values.length];
            if (most < 0x1p-100f) {
                return new Quantized(0, steps);
            }
            float inverse = 127 / most;
            Arrays.setAll(steps, i -> (int) Math.rint(values[i] * inverse));
            return new Quantized(most / 127, steps);
        }
    }

    private static void check(
            BsrMatrix matrix, float[] bias, float[] x, float[] y, Pattern pattern) {
        BsrStructure s = matrix.getStructure();
        int size = s.getBlockRows() * s.getBlockCols();
        float[] values = matrix.getValues();
        Quantized[] blocks = new Quantized[s.getNnzb()];
        boolean[] used = new boolean[s.getCols()];
        for (int k = 0; k < blocks.length; ++k) {
            blocks[k] = Quantized.of(Arrays.copyOfRange(values, k * size, (k + 1) * size));
            int first = s.col(k) * s.getBlockCols();
            Arrays.fill(used, first, first + s.getBlockCols(), true);
        }
        for (int t = 0; t < y.length / Math.max(1, s.getRows()); ++t) {
            float[] row = Arrays.copyOfRange(x, t * s.getCols(), (t + 1) * s.getCols());
            for (int c = 0; c < row.length; ++c) {
                row[c] = used[c] ? row[c] : 0;
            }
            Quantized q = Quantized.of(row);
            for (int r = 0; r < s.getRows(); ++r) {
                int blockRow = r / s.getBlockRows();
                float sum = 0;
                for (int k = s.crow(blockRow); k < s.crow(blockRow + 1); ++k) {
                    int dot = 0;
                    for (int c = 0; c < s.getBlockCols(); ++c) {
                        dot +=
                                blocks[k].steps[r % s.getBlockRows() * s.getBlockCols() + c]
                                        * q.steps[s.col(k) * s.getBlockCols() + c];
                    }
                    sum = Math.fma((float) dot, blocks[k].scale, sum);
                }
                float expected = q.scale * sum + bias[r];
                float actual = y[t * s.getRows() + r];
                if (actual != expected) {
                    fail(
                            "%s %s: token %d row %d is %.9g, expected %.9g"
                                    .formatted(s, pattern, t, r, actual, expected));
                }
            }
        }
    }
}
