/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import static org.junit.jupiter.api.Assertions.assertEquals;

import ai.djl.Device;
import ai.djl.inference.Predictor;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.Shape;
import ai.djl.repository.zoo.Criteria;
import ai.djl.repository.zoo.ZooModel;
import io.djlbsr.BsrMatrix;
import io.djlbsr.BsrStructure;
import io.djlbsr.nn.BsrActivation;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.zip.ZipFile;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Modules that PyTorch 2.11 scripted and saved ({@code native/test/python/test_torch.py}): one
 * keeps the weight as BSR tensors, the other as the packed bytes of {@code bsr::pack}.
 */
class PythonModuleTest {

    @ParameterizedTest
    @ValueSource(strings = {"bsr_linear.pt", "bsr_linear_packed.pt"})
    void aSavedModuleRunsInDjl(String file) throws Exception {
        Criteria<NDList, NDList> criteria =
                Criteria.builder()
                        .setTypes(NDList.class, NDList.class)
                        .optEngine("BSR")
                        .optDevice(Device.cpu())
                        .optModelPath(resource(file))
                        .build();
        try (ZooModel<NDList, NDList> model = criteria.loadModel();
                Predictor<NDList, NDList> predictor = model.newPredictor();
                NDManager manager = model.getNDManager().newSubManager();
                InputStream in = getClass().getResourceAsStream("bsr_linear_example.npz");
                ZipFile weights = new ZipFile(resource("bsr_linear.pt").toFile())) {
            NDList example = NDList.decode(manager, in);
            NDArray input = example.get("input");
            assertEquals(new Shape(2, 5, 64), input.getShape());
            NDArray output = predictor.predict(new NDList(input)).singletonOrThrow();
            assertEquals(example.get("output").getShape(), output.getShape());
            BsrStructure structure =
                    BsrStructure.of(96, 64, 16, 16, ints(weights, 0), ints(weights, 1));
            BsrMatrix matrix = BsrMatrix.of(structure, floats(weights, 2));
            NDArray bias = manager.create(floats(weights, 3));
            Oracle.check(file, output, matrix, input, bias, BsrActivation.GELU);
            // Python's own float64 result, which the file has in float32.
            Oracle.check(
                    "the example", example.get("output"), matrix, input, bias, BsrActivation.GELU);
        }
    }

    private Path resource(String name) throws Exception {
        return Path.of(getClass().getResource(name).toURI());
    }

    private static int[] ints(ZipFile module, int tensor) throws IOException {
        ByteBuffer bytes = bytes(module, tensor);
        int[] result = new int[bytes.remaining() / Integer.BYTES];
        bytes.asIntBuffer().get(result);
        return result;
    }

    private static float[] floats(ZipFile module, int tensor) throws IOException {
        ByteBuffer bytes = bytes(module, tensor);
        float[] result = new float[bytes.remaining() / Float.BYTES];
        bytes.asFloatBuffer().get(result);
        return result;
    }

    private static ByteBuffer bytes(ZipFile module, int tensor) throws IOException {
        try (InputStream in = module.getInputStream(module.getEntry("bsr_linear/data/" + tensor))) {
            return ByteBuffer.wrap(in.readAllBytes()).order(ByteOrder.LITTLE_ENDIAN);
        }
    }
}
