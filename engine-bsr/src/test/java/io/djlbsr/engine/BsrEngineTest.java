/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ai.djl.Device;
import ai.djl.MalformedModelException;
import ai.djl.Model;
import ai.djl.engine.Engine;
import ai.djl.inference.Predictor;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.Block;
import ai.djl.nn.Parameter;
import ai.djl.repository.zoo.Criteria;
import ai.djl.repository.zoo.ModelNotFoundException;
import ai.djl.repository.zoo.ZooModel;
import ai.djl.translate.NoopTranslator;
import ai.djl.translate.TranslateException;
import io.djlbsr.BsrMatrix;
import io.djlbsr.BsrStructure;
import io.djlbsr.nn.BsrActivation;
import io.djlbsr.nn.BsrLinear;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The engine by name, and the PyTorch operators that it registers. */
class BsrEngineTest {

    private static final String ARGUMENTS =
            "  def forward(self: __torch__.Module, input: Tensor, crow: Tensor, col: Tensor,"
                    + " values: Tensor, bias: Tensor) -> Tensor:\n";

    private static final String LINEAR =
            ARGUMENTS + "    return ops.bsr.linear(input, crow, col, values, bias, 2)\n";

    private static final String PACK_AND_LINEAR =
            ARGUMENTS
                    + "    _0 = ops.bsr.pack(crow, col, values, 24)\n"
                    + "    packed, meta, = _0\n"
                    + "    return ops.bsr.linear_packed(input, packed, meta, bias, 2)\n";

    private static final String WITHOUT_BIAS =
            ARGUMENTS + "    return ops.bsr.linear(input, crow, col, values, None, 2)\n";

    private final Random random = new Random(3);
    private final BsrMatrix matrix = Pattern.RANDOM.matrix(4, 3, new int[] {4, 8}, random);

    @TempDir Path folder;

    @Test
    void itIsNeverTheDefault() {
        assertTrue(Engine.hasEngine("BSR"));
        assertEquals("PyTorch", Engine.getDefaultEngineName());
        assertTrue(new BsrEngineProvider().getEngineRank() > 2);
    }

    @Test
    void itDelegatesToPyTorch() {
        Engine pytorch = Engine.getEngine("PyTorch");
        Engine bsr = Engine.getEngine("BSR");
        assertEquals("BSR", bsr.getEngineName());
        assertSame(bsr, Engine.getEngine("BSR"));
        assertEquals(pytorch.defaultDevice(), bsr.defaultDevice());
        assertEquals(pytorch.getGpuCount(), bsr.getGpuCount());
        assertEquals(pytorch.hasCapability("MKL"), bsr.hasCapability("MKL"));
        assertTrue(bsr.toString().contains("PyTorch"), bsr.toString());
        try (NDManager manager = bsr.newBaseManager(Device.cpu())) {
            assertEquals("PyTorch", manager.getEngine().getEngineName());
            bsr.setRandomSeed(1);
            float[] first = manager.randomNormal(new Shape(4)).toFloatArray();
            pytorch.setRandomSeed(1);
            assertEquals(
                    manager.create(first), manager.randomNormal(new Shape(4)), "one generator");
            assertEquals(1, bsr.getSeed());
        }
    }

    @Test
    void aModelOfBlocksRunsAndIsSavedAndLoaded() throws Exception {
        float[] data = new float[2 * 24];
        for (int i = 0; i < data.length; ++i) {
            data[i] = (float) random.nextGaussian();
        }
        try (Model model = Model.newInstance("layer", "BSR")) {
            model.setBlock(layer());
            model.getBlock().initialize(model.getNDManager(), DataType.FLOAT32, new Shape(2, 24));
            model.save(folder, "layer");
            check(model, data);
        }
        // Another structure at first: the file brings its own.
        try (Model loaded = Model.newInstance("layer", "BSR")) {
            loaded.setBlock(layer());
            loaded.load(folder, "layer");
            check(loaded, data);
        }
        Criteria<NDList, NDList> criteria =
                Criteria.builder()
                        .setTypes(NDList.class, NDList.class)
                        .optEngine("BSR")
                        .optModelPath(folder)
                        .optModelName("layer")
                        .optBlock(layer())
                        .build();
        try (ZooModel<NDList, NDList> model = criteria.loadModel()) {
            check(model, data);
        }
    }

    private Block layer() {
        return BsrLinear.builder().setMatrix(matrix).optActivation(BsrActivation.RELU).build();
    }

    private void check(Model model, float[] data) throws TranslateException {
        try (Predictor<NDList, NDList> predictor = model.newPredictor(new NoopTranslator(null));
                NDManager manager = model.getNDManager().newSubManager()) {
            NDArray input = manager.create(data, new Shape(2, 24));
            NDArray output = predictor.predict(new NDList(input)).singletonOrThrow();
            NDArray bias = null;
            for (Parameter parameter : model.getBlock().getParameters().values()) {
                if (parameter.getName().equals("bias")) {
                    bias = parameter.getArray();
                }
            }
            Oracle.check("model", output, matrix, input, bias, BsrActivation.RELU);
        }
    }

    @Test
    void torchScriptModulesUseTheOperators() throws Exception {
        checkModule(LINEAR, true, DataType.FLOAT32);
        checkModule(LINEAR, true, DataType.FLOAT16);
        checkModule(PACK_AND_LINEAR, true, DataType.FLOAT32);
        checkModule(PACK_AND_LINEAR, true, DataType.FLOAT16);
        checkModule(WITHOUT_BIAS, false, DataType.FLOAT32);
    }

    private void checkModule(String forward, boolean hasBias, DataType type) throws Exception {
        try (ZooModel<NDList, NDList> model = load(forward);
                Predictor<NDList, NDList> predictor = model.newPredictor();
                NDManager manager = model.getNDManager().newSubManager()) {
            BsrStructure s = matrix.getStructure();
            NDArray input = Oracle.random(manager, random, type, 3, 5, 24);
            NDArray bias = Oracle.random(manager, random, type, 16);
            NDList arguments =
                    new NDList(
                            input,
                            manager.create(s.getCrowIndices()),
                            manager.create(s.getColIndices()).toType(DataType.INT64, false),
                            matrix.toValuesArray(manager, type),
                            bias);
            // The second and third calls run the optimized graph.
            for (int call = 0; call < 3; ++call) {
                NDArray output = predictor.predict(arguments).singletonOrThrow();
                assertEquals(new Shape(3, 5, 16), output.getShape());
                Oracle.check(
                        forward + type + " call " + call,
                        output,
                        matrix,
                        input,
                        hasBias ? bias : null,
                        BsrActivation.GELU);
            }
        }
    }

    @Test
    void badInputOfATorchScriptModuleIsAnException() throws Exception {
        try (ZooModel<NDList, NDList> model = load(LINEAR);
                Predictor<NDList, NDList> predictor = model.newPredictor();
                NDManager manager = model.getNDManager().newSubManager()) {
            NDArray crow = manager.create(new int[] {0, 2});
            NDArray values = manager.ones(new Shape(2, 4, 8));
            NDArray bias = manager.ones(new Shape(4));
            NDArray input = manager.ones(new Shape(1, 16));
            for (int[] col : new int[][] {{1, 0}, {0, 0}, {0, 2}, {-1, 0}, {0}}) {
                NDList arguments = new NDList(input, crow, manager.create(col), values, bias);
                TranslateException e =
                        assertThrows(TranslateException.class, () -> predictor.predict(arguments));
                assertTrue(e.toString().contains("col_indices"), e.toString());
            }
            NDList right = new NDList(input, crow, manager.create(new int[] {0, 1}), values, bias);
            assertNotEquals(0, predictor.predict(right).singletonOrThrow().getFloat(0, 0));
        }
    }

    private ZooModel<NDList, NDList> load(String forward)
            throws IOException, ModelNotFoundException, MalformedModelException {
        Path file = Files.createTempFile(folder, "module", ".pt");
        TorchScriptFile.write(file, forward);
        return Criteria.builder()
                .setTypes(NDList.class, NDList.class)
                .optEngine("BSR")
                .optModelPath(file)
                .build()
                .loadModel();
    }

    @Test
    void tf32IsAllowedOnRequest() {
        assertFalse(BsrEngine.isTf32Allowed());
        assertTrue(BsrDebug.report().contains("cuda fp32: full accuracy"));
        BsrEngine.setTf32Allowed(true);
        try {
            assertTrue(BsrEngine.isTf32Allowed());
            assertTrue(BsrDebug.report().contains("cuda fp32: TF32 allowed"));
        } finally {
            BsrEngine.setTf32Allowed(false);
        }
        assertFalse(BsrEngine.isTf32Allowed());
    }

    @Test
    void theReportTellsWhatServesWhat() {
        String report = BsrDebug.report();
        for (String part :
                new String[] {
                    "djl-bsr: ",
                    "DJL: 0.35",
                    "JavaCPP: 1.5",
                    "PyTorch: 2.7",
                    "libdjlbsr.so",
                    "libtorch_cpu.so",
                    "libgomp",
                    "GPUs: ",
                    "cpu() float32: pytorch-native",
                    "cpu() float16: pytorch-native"
                }) {
            assertTrue(report.contains(part), part + " is not in:\n" + report);
        }
    }
}
