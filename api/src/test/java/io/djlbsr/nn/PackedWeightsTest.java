/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ai.djl.Device;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import io.djlbsr.BsrMatrix;
import io.djlbsr.BsrStructure;
import io.djlbsr.operator.BsrOperator;
import io.djlbsr.operator.BsrWeightFormat;
import io.djlbsr.operator.PackedBsrWeight;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Random;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** The cache of a layer, with an operator that copies the values as native ones do. */
class PackedWeightsTest {

    private static final int THREADS = 8;

    private final NDManager manager = NDManager.newBaseManager();
    private final CopyingOperator operator = new CopyingOperator();
    private final BsrLinearSpec spec =
            BsrLinearSpec.of(
                    BsrStructure.of(4, 4, 2, 2, new int[] {0, 1, 2}, new int[] {0, 1}),
                    4,
                    BsrActivation.NONE);
    private final PackedWeights weights =
            new PackedWeights(
                    values -> operator, () -> BsrExecution.AUTO, BsrWeightFormat.AS_GIVEN);

    @AfterEach
    void close() {
        manager.close();
    }

    /** Copies at packing, and fails when it is used after it was closed. */
    private static final class CopyingOperator implements BsrOperator {
        final AtomicInteger packs = new AtomicInteger();
        // Stands for the memory of an array, which a test must not change beside a reader.
        final Map<String, float[]> memory = new ConcurrentHashMap<>();
        final List<Copy> copies = Collections.synchronizedList(new ArrayList<>());

        @Override
        public String getName() {
            return "copying";
        }

        @Override
        public int getRank() {
            return 0;
        }

        @Override
        public Optional<String> rejectionReason(NDManager m, Device d, DataType t) {
            return Optional.empty();
        }

        @Override
        public PackedBsrWeight pack(NDManager m, BsrStructure s, NDArray values) {
            packs.incrementAndGet();
            Copy copy = new Copy(memory, memory.get(values.getUid()));
            copies.add(copy);
            return copy;
        }
    }

    private static final class Copy implements PackedBsrWeight {
        final Map<String, float[]> memory;
        final float[] values;
        final AtomicInteger running = new AtomicInteger();
        volatile boolean closed;

        Copy(Map<String, float[]> memory, float[] values) {
            this.memory = memory;
            this.values = values;
        }

        @Override
        public NDArray linear(NDArray input, NDArray bias, BsrActivation activation) {
            running.incrementAndGet();
            try {
                Thread.onSpinWait();
                if (closed) {
                    throw new IllegalStateException("used after close");
                }
                return input.getManager().create(values.clone());
            } finally {
                running.decrementAndGet();
            }
        }

        @Override
        public boolean isCurrent(NDArray array) {
            return memory.get(array.getUid()) == values;
        }

        @Override
        public long getPackedBytes() {
            return 4L * values.length;
        }

        @Override
        public boolean isReleased() {
            return closed;
        }

        @Override
        public void close() {
            assertEquals(0, running.get(), "closed while in use");
            closed = true;
        }
    }

    private float[] linear(NDArray values) {
        try (NDArray y = weights.linear(values, spec, values, null)) {
            return y.toFloatArray();
        }
    }

    private NDArray array(float value) {
        NDArray array = manager.create(new Shape(2, 2, 2));
        set(array, value);
        return array;
    }

    private void set(NDArray array, float value) {
        float[] values = new float[8];
        Arrays.fill(values, value);
        operator.memory.put(array.getUid(), values);
    }

    @Test
    void packsOncePerArray() {
        NDArray a = array(1);
        NDArray b = array(0);
        for (int i = 0; i < 3; i++) {
            assertEquals(1f, linear(a)[0]);
            assertEquals(0f, linear(b)[0]);
        }
        assertEquals(2, operator.packs.get());
        assertEquals(64, weights.getPackedBytes());
    }

    @Test
    void replacesStaleAndClosedWeights() {
        NDArray a = array(1);
        linear(a);
        set(a, 3);
        assertEquals(3f, linear(a)[0]);
        assertEquals(2, operator.packs.get());
        assertTrue(operator.copies.get(0).closed, "the stale form is freed");
        operator.copies.get(1).closed = true;
        assertEquals(3f, linear(a)[0]);
        assertEquals(3, operator.packs.get());
    }

    @Test
    void freesTheFormsOfClosedArrays() {
        NDArray a = array(1);
        linear(a);
        a.close();
        linear(array(0));
        assertTrue(operator.copies.get(0).closed);
        assertEquals(32, weights.getPackedBytes());
        weights.evict();
        assertEquals(0, weights.getPackedBytes());
        assertTrue(operator.copies.get(1).closed);
    }

    @Test
    void aFailingPackLeavesTheCacheUsable() {
        AtomicBoolean fail = new AtomicBoolean(true);
        PackedWeights failing =
                new PackedWeights(
                        values -> {
                            if (fail.get()) {
                                throw new UnsupportedOperationException("no operator");
                            }
                            return operator;
                        },
                        () -> BsrExecution.AUTO,
                        BsrWeightFormat.AS_GIVEN);
        NDArray a = array(1);
        assertThrows(UnsupportedOperationException.class, () -> failing.linear(a, spec, a, null));
        fail.set(false);
        failing.linear(a, spec, a, null);
    }

    @Test
    void threadsSeeWholeWeightsWhileValuesChange() throws Exception {
        NDArray a = array(1);
        AtomicBoolean stop = new AtomicBoolean();
        List<Future<Integer>> readers = new ArrayList<>();
        ExecutorService pool = Executors.newFixedThreadPool(THREADS);
        try {
            for (int t = 0; t < THREADS; t++) {
                readers.add(
                        pool.submit(
                                () -> {
                                    int calls = 0;
                                    float last = 1;
                                    while (!stop.get() || calls == 0) {
                                        float[] y = linear(a);
                                        for (float v : y) {
                                            assertEquals(y[0], v, "torn");
                                        }
                                        assertTrue(y[0] >= last, "stale");
                                        last = y[0];
                                        calls++;
                                    }
                                    return calls;
                                }));
            }
            for (int i = 2; i <= 200; i++) {
                set(a, i);
                assertEquals(i, linear(a)[0], "stale in the writer");
            }
            stop.set(true);
            for (Future<Integer> reader : readers) {
                assertTrue(reader.get(60, TimeUnit.SECONDS) > 0);
            }
        } finally {
            stop.set(true);
            pool.shutdownNow();
        }
        assertEquals(200f, linear(a)[0]);
        long open = operator.copies.stream().filter(copy -> !copy.closed).count();
        assertEquals(1, open, "all stale forms are freed");
    }

    @Test
    void layersGiveTheSameResultsInAllThreadsWhileTheyLoad() throws Exception {
        Random random = new Random(1);
        List<byte[]> files = new ArrayList<>();
        List<float[]> expected = new ArrayList<>();
        NDArray x = LinearOracle.input(random, manager, DataType.FLOAT32, 7, 96);
        BsrLinear layer = null;
        for (int i = 0; i < 3; i++) {
            // Balanced, so that values of one structure would fit another one.
            BsrMatrix w =
                    BlockPruner.builder()
                            .setBlockShape(16, 16)
                            .setDensity(0.5)
                            .optBalanced(true)
                            .build()
                            .prune(LinearOracle.normal(random, 64 * 96), 64, 96);
            layer = BsrLinear.builder().setMatrix(w).optBias(false).build();
            layer.initialize(manager, DataType.FLOAT32, new Shape(1, 96));
            expected.add(LinearOracle.forward(layer, x, false).toFloatArray());
            ByteArrayOutputStream bytes = new ByteArrayOutputStream();
            layer.saveParameters(new DataOutputStream(bytes));
            files.add(bytes.toByteArray());
        }
        BsrLinear shared = layer;
        AtomicBoolean stop = new AtomicBoolean();
        ExecutorService pool = Executors.newFixedThreadPool(THREADS);
        try {
            List<Future<?>> results = new ArrayList<>();
            for (int t = 0; t < THREADS; t++) {
                results.add(
                        pool.submit(
                                () -> {
                                    do {
                                        float[] y = forward(shared, x);
                                        assertTrue(
                                                expected.stream()
                                                        .anyMatch(e -> Arrays.equals(e, y)),
                                                "a mixture of two loads");
                                    } while (!stop.get());
                                }));
            }
            for (int i = 0; i < 60; i++) {
                byte[] file = files.get(i % files.size());
                shared.loadParameters(manager, new DataInputStream(new ByteArrayInputStream(file)));
                assertArrayEquals(expected.get(i % files.size()), forward(shared, x));
            }
            stop.set(true);
            for (Future<?> result : results) {
                result.get(60, TimeUnit.SECONDS);
            }
        } finally {
            stop.set(true);
            pool.shutdownNow();
        }
    }

    @Test
    void readersSeeOneLoadOrAnother() throws Exception {
        Random random = new Random(2);
        List<byte[]> files = new ArrayList<>();
        List<BsrMatrix> matrices = new ArrayList<>();
        BsrLinear layer = null;
        for (int i = 0; i < 2; i++) {
            // Of equal size, so that values would fit the other structure.
            BsrMatrix w =
                    BlockPruner.builder()
                            .setBlockShape(8, 8)
                            .setDensity(0.5)
                            .optBalanced(true)
                            .build()
                            .prune(LinearOracle.normal(random, 32 * 48), 32, 48);
            matrices.add(w);
            layer = BsrLinear.builder().setMatrix(w).optBias(false).build();
            layer.initialize(manager, DataType.FLOAT32, new Shape(1, 48));
            files.add(save(layer));
        }
        BsrLinear shared = layer;
        AtomicBoolean stop = new AtomicBoolean();
        ExecutorService pool = Executors.newFixedThreadPool(3);
        try {
            List<Future<?>> results = new ArrayList<>();
            results.add(
                    pool.submit(
                            () -> {
                                while (!stop.get()) {
                                    byte[] file = save(shared);
                                    assertTrue(
                                            files.stream().anyMatch(f -> Arrays.equals(f, file)),
                                            "a file of two loads");
                                }
                                return null;
                            }));
            results.add(
                    pool.submit(
                            () -> {
                                while (!stop.get()) {
                                    assertTrue(
                                            matrices.contains(shared.getMatrix()),
                                            "a matrix of two loads");
                                }
                            }));
            results.add(
                    pool.submit(
                            () -> {
                                while (!stop.get()) {
                                    try (NDManager own = manager.newSubManager()) {
                                        NDArray weight =
                                                LinearOracle.array(shared.toLinear(own), "weight");
                                        BsrMatrix dense = BsrMatrix.fromDense(weight, 8, 8, 0);
                                        assertTrue(
                                                matrices.contains(dense),
                                                "a dense layer of two loads");
                                    }
                                }
                            }));
            for (int i = 0; i < 200; i++) {
                byte[] file = files.get(i % files.size());
                shared.loadParameters(manager, new DataInputStream(new ByteArrayInputStream(file)));
            }
            stop.set(true);
            for (Future<?> result : results) {
                result.get(60, TimeUnit.SECONDS);
            }
        } finally {
            stop.set(true);
            pool.shutdownNow();
        }
    }

    private static byte[] save(BsrLinear layer) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        layer.saveParameters(new DataOutputStream(bytes));
        return bytes.toByteArray();
    }

    private float[] forward(BsrLinear layer, NDArray x) {
        try (NDManager own = manager.newSubManager()) {
            NDArray input = x.duplicate();
            input.attach(own);
            return LinearOracle.forward(layer, input, false).toFloatArray();
        }
    }
}
