/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import ai.djl.Model;
import ai.djl.inference.Predictor;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.SequentialBlock;
import ai.djl.translate.NoopTranslator;
import io.djlbsr.BsrMatrix;
import io.djlbsr.nn.BsrActivation;
import io.djlbsr.nn.BsrLinear;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.junit.jupiter.api.Test;

/** One model under many threads: the same bits, and no memory that stays behind. */
class ConcurrencyTest {

    private static final int THREADS = 8;
    private static final int PASSES = 10_000;
    private static final int TOKENS = 64;
    private static final int WIDTH = 512;

    /** Less than what 600 passes return: a tensor lost in one pass of ten would be seen. */
    private static final long ALLOWED_GROWTH = 64L << 20;

    @Test
    void tenThousandPassesFromEightThreads() throws Exception {
        Path status = Path.of("/proc/self/status");
        assumeTrue(Files.isReadable(status), status + " is not readable here");
        Random random = new Random(1);
        BsrMatrix first = Pattern.RANDOM.matrix(16, 8, new int[] {32, 32}, random);
        BsrMatrix second = Pattern.RANDOM.matrix(16, 16, new int[] {32, 32}, random);
        try (Model model = Model.newInstance("two layers", "BSR");
                NDManager manager = model.getNDManager().newSubManager()) {
            model.setBlock(
                    new SequentialBlock()
                            .add(
                                    BsrLinear.builder()
                                            .setMatrix(first)
                                            .optActivation(BsrActivation.GELU)
                                            .build())
                            .add(BsrLinear.builder().setMatrix(second).build()));
            model.getBlock().initialize(manager, DataType.FLOAT32, new Shape(TOKENS, WIDTH / 2));
            NDArray input = Oracle.random(manager, random, DataType.FLOAT32, TOKENS, WIDTH / 2);
            float[] data = input.toFloatArray();
            float[] expected;
            try (Predictor<NDList, NDList> predictor =
                            model.newPredictor(new NoopTranslator(null));
                    NDList output = predictor.predict(new NDList(input))) {
                expected = output.singletonOrThrow().toFloatArray();
            }
            ExecutorService pool = Executors.newFixedThreadPool(THREADS);
            try {
                run(pool, model, data, expected, PASSES / 5);
                long before = residentBytes(status);
                run(pool, model, data, expected, PASSES - PASSES / 5);
                long growth = residentBytes(status) - before;
                assertTrue(
                        growth < ALLOWED_GROWTH, "the process grew by " + (growth >> 20) + " MiB");
            } finally {
                pool.shutdown();
            }
        }
    }

    private static void run(
            ExecutorService pool, Model model, float[] data, float[] expected, int passes)
            throws Exception {
        List<Future<?>> running = new ArrayList<>();
        for (int thread = 0; thread < THREADS; ++thread) {
            running.add(
                    pool.submit(
                            () -> {
                                predict(model, data, expected, passes / THREADS);
                                return null;
                            }));
        }
        for (Future<?> future : running) {
            future.get();
        }
    }

    private static void predict(Model model, float[] data, float[] expected, int passes)
            throws Exception {
        try (Predictor<NDList, NDList> predictor = model.newPredictor(new NoopTranslator(null));
                NDManager manager = model.getNDManager().newSubManager()) {
            NDArray input = manager.create(data, new Shape(TOKENS, WIDTH / 2));
            NDArray right = manager.create(expected, new Shape(TOKENS, WIDTH));
            for (int pass = 0; pass < passes; ++pass) {
                // What a layer gives belongs to its input's manager.
                try (NDManager request = manager.newSubManager()) {
                    NDArray own = input.duplicate();
                    own.attach(request);
                    NDList output = predictor.predict(new NDList(own));
                    output.attach(request);
                    // Compared in PyTorch: a copy to Java would wait for the collector.
                    assertTrue(right.contentEquals(output.singletonOrThrow()), "pass " + pass);
                }
            }
        }
    }

    private static long residentBytes(Path status) throws IOException {
        System.gc();
        String line =
                Files.readAllLines(status).stream()
                        .filter(l -> l.startsWith("VmRSS:"))
                        .findFirst()
                        .orElseThrow();
        return Long.parseLong(line.replaceAll("\\D", "")) << 10;
    }
}
