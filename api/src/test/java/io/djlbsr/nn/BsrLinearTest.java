/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ai.djl.Model;
import ai.djl.inference.Predictor;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.Block;
import ai.djl.nn.Parameter;
import ai.djl.nn.core.Linear;
import ai.djl.training.ParameterStore;
import ai.djl.training.initializer.Initializer;
import ai.djl.translate.NoopTranslator;
import io.djlbsr.BsrMatrix;
import io.djlbsr.BsrStructure;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class BsrLinearTest {

    private final NDManager manager = NDManager.newBaseManager();
    private final Random random = new Random(11);

    @AfterEach
    void close() {
        manager.close();
    }

    private BsrMatrix matrix(int rows, int cols, int blockRows, int blockCols, double density) {
        return LinearOracle.random(random, rows, cols, blockRows, blockCols, density);
    }

    private static void assertMessage(
            Class<? extends Exception> type, String part, Executable executable) {
        String message = assertThrows(type, executable).getMessage();
        assertTrue(message.contains(part), () -> "'" + message + "' lacks '" + part + "'");
    }

    @ParameterizedTest
    @ValueSource(booleans = {false, true})
    void matchesDoubleForAllRanksTypesAndActivations(boolean training) {
        long[][] leading = {{}, {1}, {3}, {0}, {2, 3}, {2, 0, 3}, {1, 2, 1, 3}};
        DataType[] types = {DataType.FLOAT32, DataType.FLOAT16, DataType.FLOAT64};
        for (DataType type : types) {
            for (BsrActivation activation : BsrActivation.values()) {
                for (long[] lead : leading) {
                    BsrMatrix w = matrix(12, 20, 4, 5, 0.4);
                    float[] bias = random.nextBoolean() ? LinearOracle.normal(random, 12) : null;
                    BsrLinear.Builder builder =
                            BsrLinear.builder().setMatrix(w).optActivation(activation);
                    BsrLinear layer =
                            (bias == null ? builder.optBias(false) : builder.optBias(bias)).build();
                    Shape shape = new Shape(lead).add(20);
                    layer.initialize(manager, type, shape);
                    NDArray x = LinearOracle.input(random, manager, type, shape.getShape());
                    NDArray y = LinearOracle.forward(layer, x, training);
                    assertEquals(layer.getOutputShapes(new Shape[] {shape})[0], y.getShape());
                    NDArray b = LinearOracle.array(layer, "bias");
                    LinearOracle.assertLinear(
                            w.getStructure(),
                            LinearOracle.values(LinearOracle.array(layer, "weight")),
                            b == null ? null : LinearOracle.values(b),
                            activation,
                            x,
                            y);
                }
            }
        }
    }

    @Test
    void equalsLinearInAllThatBlocksTell() {
        Linear dense = Linear.builder().setUnits(6).build();
        dense.initialize(manager, DataType.FLOAT32, new Shape(2, 7, 8));
        BsrLinear sparse = BsrLinear.fromLinear(dense, 3, 4, 0);
        Shape[] in = {new Shape(5, 1, 8)};
        assertArrayEquals(dense.getOutputShapes(in), sparse.getOutputShapes(in));
        assertEquals(dense.describeInput().keys(), sparse.describeInput().keys());
        assertEquals(dense.describeInput().values(), sparse.describeInput().values());
        assertEquals(dense.getParameters().keys(), sparse.getParameters().keys());
        assertTrue(sparse.isInitialized());
        assertArrayEquals(dense.getInputShapes(), sparse.getInputShapes());
        assertTrue(sparse.toString().startsWith("BsrLinear"), sparse::toString);
        BsrLinear fresh = BsrLinear.builder().setMatrix(matrix(6, 8, 3, 4, 1)).build();
        Linear freshDense = Linear.builder().setUnits(6).build();
        assertEquals(freshDense.describeInput().values(), fresh.describeInput().values(), "before");
        fresh.initialize(manager, DataType.FLOAT32, new Shape(2, 7, 8));
        assertEquals(dense.describeInput().values(), fresh.describeInput().values());
        assertArrayEquals(dense.getInputShapes(), fresh.getInputShapes());
        // Small integers: every order of the sum is exact.
        NDArray weight = LinearOracle.array(dense, "weight");
        weight.set(integers((int) weight.size()));
        BsrLinear exact = BsrLinear.fromLinear(dense, 3, 4, 0);
        NDArray x = manager.create(integers(2 * 7 * 8), new Shape(2, 7, 8));
        assertEquals(LinearOracle.forward(dense, x, false), LinearOracle.forward(exact, x, false));
    }

    private float[] integers(int size) {
        float[] values = new float[size];
        for (int i = 0; i < size; i++) {
            values[i] = random.nextInt(9) - 4;
        }
        return values;
    }

    @Test
    void convertsThereAndBackInEveryType() {
        for (DataType type :
                new DataType[] {DataType.FLOAT16, DataType.FLOAT32, DataType.FLOAT64}) {
            BsrMatrix w = matrix(8, 12, 4, 3, 0.5);
            Linear dense = Linear.builder().setUnits(8).build();
            dense.initialize(manager, type, new Shape(1, 12));
            NDArray weight = LinearOracle.array(dense, "weight");
            NDArray image = w.toDense(manager).toType(type, false);
            // 1e-30 survives in FLOAT64 alone, and must then be kept.
            NDArray scale = manager.full(new Shape(8, 12), 1e-30f).toType(type, false);
            image.mul(type == DataType.FLOAT64 ? scale : scale.onesLike()).copyTo(weight);
            BsrLinear sparse = BsrLinear.fromLinear(dense, 4, 3, 0);
            assertEquals(w.getStructure(), sparse.getStructure());
            Linear back = sparse.toLinear(manager);
            assertEquals(weight, LinearOracle.array(back, "weight"));
            assertEquals(LinearOracle.array(dense, "bias"), LinearOracle.array(back, "bias"));
            assertEquals(type, LinearOracle.array(sparse, "weight").getDataType());
        }
    }

    @Test
    void emptyStructureGivesTheBias() {
        BsrStructure empty = BsrStructure.of(4, 6, 2, 3, new int[3], new int[0]);
        BsrLinear layer =
                BsrLinear.builder().setStructure(empty).optBias(new float[] {1, 2, 3, 4}).build();
        layer.initialize(manager, DataType.FLOAT32, new Shape(2, 6));
        assertEquals(new Shape(0, 2, 3), LinearOracle.array(layer, "weight").getShape());
        for (boolean training : new boolean[] {false, true}) {
            NDArray y = LinearOracle.forward(layer, manager.ones(new Shape(2, 6)), training);
            assertArrayEquals(new float[] {1, 2, 3, 4, 1, 2, 3, 4}, y.toFloatArray());
        }
        assertEquals(0, layer.getMatrix().getStructure().getNnzb());
        assertArrayEquals(
                new float[24],
                LinearOracle.array(layer.toLinear(manager), "weight").toFloatArray());
    }

    @Test
    void initializerSeesTheDenseShape() {
        Shape[] seen = new Shape[1];
        BsrStructure structure = matrix(8, 12, 4, 3, 0.5).getStructure();
        BsrLinear layer = BsrLinear.builder().setStructure(structure).optBias(false).build();
        layer.setInitializer(
                (m, shape, type) -> {
                    seen[0] = shape;
                    return m.arange(0f, 96f).reshape(shape);
                },
                Parameter.Type.WEIGHT);
        layer.initialize(manager, DataType.FLOAT32, new Shape(1, 12));
        assertEquals(new Shape(8, 12), seen[0]);
        float[] dense = layer.getMatrix().toDense();
        for (int i = 0; i < structure.getBlockRowCount(); i++) {
            for (int k = structure.crow(i); k < structure.crow(i + 1); k++) {
                int first = i * 4 * 12 + structure.col(k) * 3;
                assertEquals(first, dense[first], "first element of block " + k);
            }
        }
        // A trainer's initializer must not replace a weight that was given.
        BsrMatrix given = matrix(8, 12, 4, 3, 0.5);
        BsrLinear kept = BsrLinear.builder().setMatrix(given).build();
        kept.setInitializer(Initializer.ONES, Parameter.Type.WEIGHT);
        kept.initialize(manager, DataType.FLOAT32, new Shape(1, 12));
        assertEquals(given, kept.getMatrix());
    }

    @Test
    void freezes() {
        BsrLinear layer = BsrLinear.builder().setMatrix(matrix(4, 4, 2, 2, 1)).build();
        layer.freezeParameters(true);
        layer.initialize(manager, DataType.FLOAT32, new Shape(1, 4));
        assertFalse(LinearOracle.array(layer, "weight").hasGradient());
        layer.freezeParameters(false);
        assertTrue(LinearOracle.array(layer, "weight").hasGradient());
        assertTrue(LinearOracle.array(layer, "bias").hasGradient());

        Linear dense = Linear.builder().setUnits(4).build();
        dense.initialize(manager, DataType.FLOAT32, new Shape(1, 4));
        dense.freezeParameters(true, p -> p.getType() == Parameter.Type.WEIGHT);
        BsrLinear converted = BsrLinear.fromLinear(dense, 2, 2, 0);
        assertFalse(LinearOracle.array(converted, "weight").hasGradient());
        assertTrue(LinearOracle.array(converted, "bias").hasGradient());
        assertFalse(converted.getDirectParameters().get("weight").requiresGradient());
    }

    @Test
    void seesValuesThatChangeInPlace() {
        BsrMatrix w = matrix(8, 8, 4, 4, 0.6);
        BsrLinear layer = BsrLinear.builder().setMatrix(w).optBias(false).build();
        layer.initialize(manager, DataType.FLOAT32, new Shape(1, 8));
        NDArray x = LinearOracle.input(random, manager, DataType.FLOAT32, 3, 8);
        ParameterStore store = new ParameterStore(manager, false);
        NDArray values = LinearOracle.array(layer, "weight");
        for (int i = 0; i < 3; i++) {
            NDArray y = layer.forward(store, new NDList(x), false).singletonOrThrow();
            LinearOracle.assertLinear(
                    w.getStructure(), LinearOracle.values(values), null, BsrActivation.NONE, x, y);
            values.set(LinearOracle.normal(random, (int) values.size()));
        }
        layer.clear();
        assertEquals(0, layer.getPackedBytes());
        assertThrows(RuntimeException.class, () -> LinearOracle.forward(layer, x, false));
        layer.initialize(manager, DataType.FLOAT32, new Shape(1, 8));
        LinearOracle.assertLinear(
                w.getStructure(),
                LinearOracle.values(LinearOracle.array(layer, "weight")),
                null,
                BsrActivation.NONE,
                x,
                LinearOracle.forward(layer, x, false));
    }

    @Test
    void runsInAPredictor() throws Exception {
        BsrMatrix w = matrix(8, 8, 4, 4, 0.6);
        BsrLinear layer = BsrLinear.builder().setMatrix(w).optBias(false).build();
        try (Model model = Model.newInstance("bsr")) {
            layer.initialize(model.getNDManager(), DataType.FLOAT32, new Shape(1, 8));
            model.setBlock(layer);
            NDArray x = LinearOracle.input(random, manager, DataType.FLOAT32, 3, 8);
            try (Predictor<NDList, NDList> predictor = model.newPredictor(new NoopTranslator())) {
                NDList y = predictor.predict(new NDList(x));
                int arrays = model.getNDManager().getManagedArrays().size();
                for (int i = 0; i < 10; i++) {
                    predictor.predict(new NDList(x)).close();
                }
                assertEquals(arrays, model.getNDManager().getManagedArrays().size(), "leak");
                LinearOracle.assertLinear(
                        w.getStructure(),
                        LinearOracle.values(LinearOracle.array(layer, "weight")),
                        null,
                        BsrActivation.NONE,
                        x,
                        y.singletonOrThrow());
            }
        }
    }

    @Test
    void refusesWhatDoesNotFit() {
        Class<IllegalArgumentException> bad = IllegalArgumentException.class;
        BsrLinear layer = BsrLinear.builder().setMatrix(matrix(4, 6, 2, 3, 1)).build();
        assertMessage(
                bad,
                "6 columns",
                () -> layer.initialize(manager, DataType.FLOAT32, new Shape(2, 7)));
        assertMessage(bad, "(2, 7)", () -> layer.getOutputShapes(new Shape[] {new Shape(2, 7)}));
        assertThrows(
                UnsupportedOperationException.class,
                () -> layer.initialize(manager, DataType.BFLOAT16, new Shape(2, 6)));
        assertThrows(
                UnsupportedOperationException.class,
                () -> layer.initialize(manager, DataType.INT32, new Shape(2, 6)));
        NDArray x = manager.ones(new Shape(2, 6));
        assertThrows(RuntimeException.class, () -> LinearOracle.forward(layer, x, false), "empty");
        assertThrows(IllegalStateException.class, () -> layer.toLinear(manager));
        layer.initialize(manager, DataType.FLOAT32, new Shape(2, 6));
        for (boolean training : new boolean[] {false, true}) {
            assertMessage(
                    bad,
                    "(2, 7)",
                    () -> LinearOracle.forward(layer, manager.ones(new Shape(2, 7)), training));
            assertMessage(
                    bad,
                    "6 columns",
                    () -> LinearOracle.forward(layer, manager.create(1f), training));
            assertMessage(
                    bad,
                    "float64",
                    () -> LinearOracle.forward(layer, x.toType(DataType.FLOAT64, true), training));
        }
        NDArray closed = manager.ones(new Shape(2, 6));
        ParameterStore store = new ParameterStore(manager, false);
        closed.close();
        assertThrows(
                IllegalStateException.class, () -> layer.forward(store, new NDList(closed), false));
        assertMessage(bad, "setMatrix", () -> BsrLinear.builder().build());
        assertMessage(
                bad,
                "3 values",
                () ->
                        BsrLinear.builder()
                                .setMatrix(matrix(4, 6, 2, 3, 1))
                                .optBias(new float[3])
                                .build());
        assertMessage(
                bad,
                "4 rows",
                () -> BsrLinear.builder().setMatrix(matrix(4, 6, 2, 3, 1)).setUnits(5).build());
        Linear dense = Linear.builder().setUnits(4).build();
        assertThrows(IllegalStateException.class, () -> BsrLinear.fromLinear(dense, 2, 2, 0));
        dense.initialize(manager, DataType.FLOAT32, new Shape(1, 6));
        assertMessage(bad, "4", () -> BsrLinear.fromLinear(dense, 2, 4, 0));
        assertMessage(bad, "tolerance", () -> BsrLinear.fromLinear(dense, 2, 3, -1));
        assertMessage(bad, "tolerance", () -> BsrLinear.fromLinear(dense, 2, 3, Float.NaN));
        assertMessage(bad, "(4, 6)", () -> BsrLinear.fromLinear(dense, matrix(4, 9, 2, 3, 1)));
    }

    @Test
    void initializesToTheGivenValuesAgainAfterClear() {
        BsrMatrix w = matrix(4, 6, 2, 3, 1);
        float[] bias = {1, 2, 3, 4};
        BsrLinear layer = BsrLinear.builder().setMatrix(w).optBias(bias).optBias(true).build();
        for (int i = 0; i < 2; i++) {
            layer.initialize(manager, DataType.FLOAT32, new Shape(2, 6));
            assertEquals(w, layer.getMatrix());
            assertArrayEquals(bias, LinearOracle.array(layer, "bias").toFloatArray());
            layer.clear();
        }
    }

    @Test
    void aFailedInitializeLeavesNoArrays() {
        BsrLinear layer = BsrLinear.builder().setMatrix(matrix(4, 6, 2, 3, 1)).build();
        Shape shape = new Shape(2, 6);
        Class<IllegalArgumentException> bad = IllegalArgumentException.class;
        assertMessage(bad, "0 shapes", () -> layer.initialize(manager, DataType.FLOAT32));
        assertMessage(
                bad, "2 shapes", () -> layer.initialize(manager, DataType.FLOAT32, shape, shape));
        assertFalse(layer.getDirectParameters().get("weight").isInitialized());
    }

    @Test
    void fromLinearRefusesIntegersAndLeavesNoArrays() {
        Linear dense = Linear.builder().setUnits(4).optBias(false).build();
        NDArray weight = manager.ones(new Shape(4, 6), DataType.INT32);
        dense.getDirectParameters().get("weight").setArray(weight);
        int arrays = manager.getManagedArrays().size();
        assertMessage(
                UnsupportedOperationException.class,
                "int32",
                () -> BsrLinear.fromLinear(dense, 2, 2, 0));
        assertEquals(arrays, manager.getManagedArrays().size());
    }

    @Test
    void namesTheArgumentThatIsNull() {
        Class<NullPointerException> bad = NullPointerException.class;
        BsrMatrix none = null;
        assertMessage(bad, "matrix", () -> BsrLinear.builder().setMatrix(null));
        assertMessage(bad, "structure", () -> BsrLinear.builder().setStructure(null));
        assertMessage(bad, "dense", () -> BsrLinear.fromLinear(null, 2, 2, 0));
        assertMessage(bad, "dense", () -> BsrLinear.fromLinear(null, matrix(4, 6, 2, 3, 1)));
        Linear dense = Linear.builder().setUnits(4).build();
        assertMessage(bad, "matrix", () -> BsrLinear.fromLinear(dense, none));
        assertMessage(bad, "root", () -> converter().build().convert(null));
        assertMessage(bad, "policy", () -> converter().optPolicy(null));
    }

    private static BsrConverter.Builder converter() {
        return BsrConverter.builder().addBlockShape(2, 2);
    }

    @Test
    void dropsBlocksUpToTheToleranceInTheWeightsOwnType() {
        // In FLOAT16 0.10001 would round to the second value, 0.10004.
        float[] blocks = {0.05f, 0.10004f, -0.05f, -0.5f};
        for (DataType type :
                new DataType[] {DataType.FLOAT16, DataType.FLOAT32, DataType.FLOAT64}) {
            Linear dense = Linear.builder().setUnits(1).optBias(false).build();
            NDArray weight = manager.create(blocks, new Shape(1, 4)).toType(type, false);
            dense.getDirectParameters().get("weight").setArray(weight);
            BsrStructure kept = BsrLinear.fromLinear(dense, 1, 1, 0.10001f).getStructure();
            assertArrayEquals(new int[] {1, 3}, kept.getColIndices(), type.toString());
        }
    }

    @Test
    void fromLinearKeepsTheInitializer() {
        Linear dense = Linear.builder().setUnits(4).build();
        dense.setInitializer(Initializer.ONES, Parameter.Type.WEIGHT);
        dense.initialize(manager, DataType.FLOAT32, new Shape(1, 6));
        BsrLinear sparse = BsrLinear.fromLinear(dense, 2, 2, 0);
        assertSame(Initializer.ONES, sparse.getDirectParameters().get("weight").getInitializer());
    }

    @Test
    void toLinearKeepsTheFrozenState() {
        BsrLinear layer = BsrLinear.builder().setMatrix(matrix(4, 6, 2, 3, 1)).build();
        layer.initialize(manager, DataType.FLOAT32, new Shape(2, 6));
        layer.freezeParameters(true, p -> p.getType() == Parameter.Type.WEIGHT);
        Linear dense = layer.toLinear(manager);
        assertFalse(dense.getDirectParameters().get("weight").requiresGradient());
        assertFalse(LinearOracle.array(dense, "weight").hasGradient());
        assertTrue(LinearOracle.array(dense, "bias").hasGradient());
    }

    @Test
    void layerWithoutStructureSaysSo() {
        BsrLinear layer = BsrLinear.builder().setUnits(4).setBlockShape(2, 2).build();
        assertMessage(IllegalStateException.class, "load", layer::getStructure);
        assertMessage(
                IllegalStateException.class,
                "load",
                () -> layer.initialize(manager, DataType.FLOAT32, new Shape(1, 4)));
        assertNull(layer.describeInput().valueAt(0));
        Shape[] output = layer.getOutputShapes(new Shape[] {new Shape(3, 7)});
        assertArrayEquals(new Shape[] {new Shape(3, 4)}, output);
        assertTrue(layer.toString().startsWith("BsrLinear"), layer::toString);
        assertEquals("weight", ((Block) layer).getParameters().keyAt(0));
    }
}
