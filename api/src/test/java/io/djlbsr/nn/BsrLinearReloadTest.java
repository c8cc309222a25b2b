/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ai.djl.Device;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.Parameter;
import ai.djl.training.ParameterStore;
import io.djlbsr.BsrMatrix;
import io.djlbsr.BsrStructure;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.util.Random;
import java.util.concurrent.FutureTask;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** Loads a file with as many blocks in other places into a layer that stores already use. */
class BsrLinearReloadTest {

    private static final BsrStructure OLD =
            BsrStructure.of(4, 8, 2, 2, new int[] {0, 1, 2}, new int[] {0, 3});
    private static final BsrStructure NEW =
            BsrStructure.of(4, 8, 2, 2, new int[] {0, 1, 2}, new int[] {2, 1});

    private final NDManager manager = NDManager.newBaseManager();
    private final Random random = new Random(51);
    private BsrLinear layer;
    private NDArray x;
    private NDArray oldResult;
    private NDArray newResult;
    private byte[] oldFile;
    private byte[] newFile;

    @BeforeEach
    void prepare() throws Exception {
        x = LinearOracle.input(random, manager, DataType.FLOAT32, 3, 8);
        layer = layer(OLD);
        BsrLinear other = layer(NEW);
        oldResult = LinearOracle.forward(layer(layer), x, false);
        newResult = LinearOracle.forward(layer(other), x, false);
        oldFile = save(layer);
        newFile = save(other);
    }

    @AfterEach
    void close() {
        manager.close();
    }

    private BsrLinear layer(BsrStructure structure) {
        BsrMatrix matrix = BsrMatrix.of(structure, LinearOracle.normal(random, 8));
        BsrLinear result =
                BsrLinear.builder()
                        .setMatrix(matrix)
                        .optBias(LinearOracle.normal(random, 4))
                        .build();
        result.initialize(manager, DataType.FLOAT32, new Shape(1, 8));
        return result;
    }

    /** A copy, so that expected results leave no trace in the layer under test. */
    private BsrLinear layer(BsrLinear original) throws Exception {
        BsrLinear result = BsrLinear.builder().setUnits(4).setBlockShape(2, 2).build();
        load(result, save(original));
        return result;
    }

    private static byte[] save(BsrLinear layer) throws Exception {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        layer.saveParameters(new DataOutputStream(bytes));
        return bytes.toByteArray();
    }

    private void load(BsrLinear target, byte[] file) throws Exception {
        target.loadParameters(manager, new DataInputStream(new ByteArrayInputStream(file)));
    }

    private NDArray forward(ParameterStore store, boolean training) {
        return layer.forward(store, new NDList(x), training).singletonOrThrow();
    }

    @Test
    void aStoreThatTrainedKeepsTheOldLayer() throws Exception {
        for (boolean copy : new boolean[] {false, true}) {
            load(layer, oldFile);
            ParameterStore store = new ParameterStore(manager, copy);
            assertEquals(oldResult, forward(store, true), "before");
            load(layer, newFile);
            assertEquals(oldResult, forward(store, false), "inference");
            assertEquals(oldResult, forward(store, true), "training");
            assertEquals(newResult, forward(new ParameterStore(manager, copy), false), "new store");
        }
    }

    @Test
    void aStoreThatTookTheArraysKeepsTheOldLayer() throws Exception {
        ParameterStore store = new ParameterStore(manager, false);
        for (Parameter parameter : layer.getDirectParameters().values()) {
            store.getValue(parameter, Device.cpu(), false);
        }
        load(layer, newFile);
        assertEquals(oldResult, forward(store, false));
        assertEquals(newResult, forward(new ParameterStore(manager, false), false));
    }

    @Test
    void aCopyOfUnknownOriginIsRefused() throws Exception {
        ParameterStore store = new ParameterStore(manager, true);
        store.getValue(layer.getDirectParameters().get("weight"), Device.cpu(), false);
        load(layer, newFile);
        String message =
                assertThrows(IllegalStateException.class, () -> forward(store, false)).getMessage();
        assertTrue(message.contains("after loading"), message);
        assertEquals(newResult, forward(new ParameterStore(manager, true), false));
    }

    /** Starts a load as soon as it has given the weight, and lets it go as far as it can. */
    private final class LoadingStore extends ParameterStore {
        private final FutureTask<Void> task =
                new FutureTask<>(
                        () -> {
                            load(layer, newFile);
                            return null;
                        });

        LoadingStore(boolean copy) {
            super(manager, copy);
        }

        @Override
        public NDArray getValue(Parameter parameter, Device device, boolean training) {
            NDArray value = super.getValue(parameter, device, training);
            if (parameter.getName().equals("weight")) {
                Thread thread = new Thread(task);
                thread.start();
                while (thread.getState() != Thread.State.WAITING && thread.isAlive()) {
                    Thread.onSpinWait();
                }
            }
            return value;
        }
    }

    @Test
    void aLoadWaitsForCallsThatTakeTheirArrays() throws Exception {
        for (boolean copy : new boolean[] {false, true}) {
            load(layer, oldFile);
            LoadingStore store = new LoadingStore(copy);
            assertEquals(oldResult, forward(store, false), "weight, bias and structure");
            store.task.get(60, TimeUnit.SECONDS);
            assertEquals(newResult, forward(new ParameterStore(manager, copy), false));
        }
    }

    @Test
    void loadsFreeThePackedFormsOfReplacedWeights() throws Exception {
        forward(new ParameterStore(manager, false), false);
        forward(new ParameterStore(manager, false), true);
        long bytes = layer.getPackedBytes();
        assertTrue(bytes > 0);
        for (int i = 0; i < 5; i++) {
            load(layer, i % 2 == 0 ? newFile : oldFile);
            forward(new ParameterStore(manager, false), false);
            forward(new ParameterStore(manager, false), true);
            assertEquals(bytes, layer.getPackedBytes(), "after load " + i);
        }
    }

    @Test
    void aLoadReplacesTheInitialWeight() throws Exception {
        load(layer, newFile);
        layer.clear();
        assertThrows(IllegalStateException.class, layer::getMatrix);
        layer.initialize(manager, DataType.FLOAT32, new Shape(1, 8));
        assertEquals(NEW, layer.getMatrix().getStructure());
    }
}
