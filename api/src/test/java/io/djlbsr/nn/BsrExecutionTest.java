/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ai.djl.Device;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.NDScope;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ch.qos.logback.classic.Logger;
import ch.qos.logback.classic.spi.ILoggingEvent;
import ch.qos.logback.core.read.ListAppender;
import io.djlbsr.BsrMatrix;
import io.djlbsr.BsrStructure;
import io.djlbsr.operator.BsrOperator;
import io.djlbsr.operator.BsrWeightFormat;
import io.djlbsr.operator.CostEstimate;
import io.djlbsr.operator.PackedBsrWeight;
import io.djlbsr.operator.ReferenceBsrOperator;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.Random;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.LongPredicate;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.slf4j.LoggerFactory;

/**
 * Which side a call takes. The operator here has a made-up model, and its packed form gives a
 * constant that no product gives, so that the side shows in the result.
 */
class BsrExecutionTest {

    private static final float MARK = 1e30f;

    private final NDManager manager = NDManager.newBaseManager();
    private final Random random = new Random(3);
    private final BsrMatrix matrix = LinearOracle.random(random, 12, 8, 4, 2, 0.5);
    private final BsrStructure structure = matrix.getStructure();
    private final ListAppender<ILoggingEvent> log = new ListAppender<>();
    private LongPredicate denseFaster = tokens -> false;
    private BsrExecution execution = BsrExecution.AUTO;
    private final AtomicInteger estimates = new AtomicInteger();
    private volatile boolean current = true;
    private boolean packedClosed;
    private final PackedWeights weights =
            new PackedWeights(
                    values -> new MarkingOperator(), () -> execution, BsrWeightFormat.AS_GIVEN);

    @BeforeEach
    void listen() {
        log.start();
        ((Logger) LoggerFactory.getLogger(BsrLinear.class)).addAppender(log);
    }

    @AfterEach
    void close() {
        ((Logger) LoggerFactory.getLogger(BsrLinear.class)).detachAppender(log);
        System.clearProperty(BsrExecution.PROPERTY);
        manager.close();
    }

    private final class MarkingOperator implements BsrOperator {
        @Override
        public String getName() {
            return "marking";
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
            return new MarkingWeight();
        }
    }

    private final class MarkingWeight implements PackedBsrWeight {
        @Override
        public NDArray linear(NDArray input, NDArray bias, BsrActivation activation) {
            return input.getManager().full(new Shape(1), MARK);
        }

        @Override
        public Optional<CostEstimate> estimate(long tokens, BsrActivation activation) {
            estimates.incrementAndGet();
            boolean dense = denseFaster.test(tokens);
            return Optional.of(new CostEstimate(2e-6, dense ? 1e-6 : 4e-6, dense));
        }

        @Override
        public boolean isCurrent(NDArray values) {
            return current;
        }

        @Override
        public long getPackedBytes() {
            return 1000;
        }

        @Override
        public boolean isReleased() {
            return packedClosed;
        }

        @Override
        public void close() {
            packedClosed = true;
        }
    }

    private BsrLinearSpec spec(BsrActivation activation) {
        return BsrLinearSpec.of(structure, structure.getRows(), activation);
    }

    private boolean ranDense(NDArray values, BsrLinearSpec spec, NDArray bias, long... leading) {
        NDArray x =
                LinearOracle.input(
                        random, manager, DataType.FLOAT32, new Shape(leading).add(8).getShape());
        try (NDArray y = weights.linear(values, spec, x, bias)) {
            assertEquals(manager, y.getManager(), "the manager of the result");
            if (y.size() == 1 && y.getFloat() == MARK) {
                return false;
            }
            assertEquals(new Shape(leading).add(12), y.getShape());
            LinearOracle.assertLinear(
                    structure,
                    LinearOracle.values(values),
                    bias == null ? null : LinearOracle.values(bias),
                    spec.activation(),
                    x,
                    y);
            return true;
        }
    }

    private NDArray values() {
        return matrix.toValuesArray(manager, DataType.FLOAT32);
    }

    @Test
    void takesTheSideThatIsPredictedToBeFaster() {
        denseFaster = tokens -> tokens >= 64;
        NDArray values = values();
        BsrLinearSpec spec = spec(BsrActivation.NONE);
        assertFalse(ranDense(values, spec, null, 1));
        assertFalse(ranDense(values, spec, null, 63));
        assertEquals(1000, weights.getPackedBytes(), "nothing is densified yet");
        assertTrue(ranDense(values, spec, null, 64));
        assertTrue(ranDense(values, spec, null, 2, 8, 4));
        assertFalse(ranDense(values, spec, null, 7, 9));
        assertTrue(ranDense(values, spec, null, 65));
        assertEquals(1000 + 12 * 8 * 4, weights.getPackedBytes());
    }

    @Test
    void everyActivationAndBiasFollowsADenseProduct() {
        denseFaster = tokens -> true;
        NDArray bias = LinearOracle.input(random, manager, DataType.FLOAT32, 12);
        for (BsrActivation activation : BsrActivation.values()) {
            NDArray values = values();
            int before = manager.getManagedArrays().size();
            assertTrue(ranDense(values, spec(activation), bias, 3, 2));
            assertTrue(ranDense(values, spec(activation), null));
            // Two inputs and the densified weight.
            assertEquals(3, manager.getManagedArrays().size() - before, "the rest is freed");
        }
    }

    @Test
    void asksOnceWhereDenseNeverPays() {
        NDArray values = values();
        BsrLinearSpec spec = spec(BsrActivation.NONE);
        assertFalse(ranDense(values, spec, null, 5));
        int asked = estimates.get();
        for (int i = 1; i < 20; i++) {
            assertFalse(ranDense(values, spec, null, i));
        }
        assertEquals(asked, estimates.get());
        assertTrue(log.list.isEmpty(), () -> log.list.get(0).getFormattedMessage());
    }

    @Test
    void executionOverridesThePrediction() {
        NDArray values = values();
        BsrLinearSpec spec = spec(BsrActivation.RELU);
        execution = BsrExecution.DENSE;
        assertTrue(ranDense(values, spec, null, 5));
        denseFaster = tokens -> true;
        execution = BsrExecution.BSR;
        assertFalse(ranDense(values, spec, null, 5));
        execution = BsrExecution.AUTO;
        assertTrue(ranDense(values, spec, null, 5));
    }

    @Test
    void inputsThatDoNotFitGoToTheOperatorThatExplains() {
        execution = BsrExecution.DENSE;
        NDArray values = values();
        BsrLinearSpec spec = spec(BsrActivation.NONE);
        for (NDArray x :
                List.of(
                        manager.zeros(new Shape(3, 9)),
                        manager.create(1f),
                        manager.zeros(new Shape(3, 8), DataType.FLOAT64))) {
            assertEquals(MARK, weights.linear(values, spec, x, null).getFloat());
        }
    }

    @Test
    void tellsTheUserOnce() {
        denseFaster = tokens -> tokens > 100;
        BsrLinearSpec spec = spec(BsrActivation.NONE);
        NDArray first = values();
        ranDense(first, spec, null, 8);
        assertEquals(0, log.list.size());
        ranDense(first, spec, null, 101);
        ranDense(first, spec, null, 102);
        ranDense(values(), spec, null, 103);
        assertEquals(1, log.list.size());
        String message = log.list.get(0).getFormattedMessage();
        for (String part :
                List.of(
                        "12x8",
                        "4x2 blocks",
                        "101 tokens",
                        "1.0 us",
                        "2.0 us",
                        "384 bytes",
                        "-D")) {
            assertTrue(message.contains(part), part + " is not in: " + message);
        }
    }

    @Test
    void changedValuesAreDensifiedAnew() {
        denseFaster = tokens -> true;
        NDArray values = values();
        BsrLinearSpec spec = spec(BsrActivation.NONE);
        assertTrue(ranDense(values, spec, null, 3));
        values.muli(-2);
        current = false;
        assertTrue(ranDense(values, spec, null, 3));
        assertTrue(packedClosed, "the stale packed form");
        packedClosed = false;
        weights.evict();
        assertEquals(0, weights.getPackedBytes());
    }

    @Test
    void outlivesTheScopeOfItsFirstCall() {
        denseFaster = tokens -> true;
        NDArray values = values();
        BsrLinearSpec spec = spec(BsrActivation.NONE);
        try (NDScope scope = new NDScope()) {
            scope.suppressNotUsedWarning();
            assertTrue(ranDense(values, spec, null, 3));
        }
        assertTrue(ranDense(values, spec, null, 3));
        assertEquals(1384, weights.getPackedBytes());
    }

    @Test
    void concurrentFirstCallsDensifyOnce() throws Exception {
        denseFaster = tokens -> true;
        NDArray values = values();
        BsrLinearSpec spec = spec(BsrActivation.NONE);
        NDArray x = LinearOracle.input(random, manager, DataType.FLOAT32, 5, 8);
        int threads = 8;
        CountDownLatch start = new CountDownLatch(1);
        ExecutorService pool = Executors.newFixedThreadPool(threads);
        try {
            List<Future<float[]>> results = new ArrayList<>();
            for (int t = 0; t < threads; t++) {
                results.add(
                        pool.submit(
                                () -> {
                                    start.await();
                                    try (NDArray y = weights.linear(values, spec, x, null)) {
                                        return y.toFloatArray();
                                    }
                                }));
            }
            start.countDown();
            for (Future<float[]> result : results) {
                LinearOracle.assertLinear(
                        structure,
                        LinearOracle.values(values),
                        null,
                        BsrActivation.NONE,
                        x,
                        manager.create(result.get(60, TimeUnit.SECONDS), new Shape(5, 12)));
            }
        } finally {
            pool.shutdownNow();
        }
        assertEquals(1384, weights.getPackedBytes());
        assertEquals(1, log.list.size(), "told once");
    }

    /** With the reference operator, which has no model. */
    @Test
    void layersTakeTheirExecution() {
        BsrLinear layer =
                BsrLinear.builder().setMatrix(matrix).optExecution(BsrExecution.DENSE).build();
        layer.initialize(manager, DataType.FLOAT32, new Shape(1, 8));
        assertEquals(BsrExecution.DENSE, layer.getExecution());
        assertTrue(layer.estimate(5).isEmpty(), "the reference operator has no model");
        NDArray x = LinearOracle.input(random, manager, DataType.FLOAT32, 5, 8);
        NDArray dense = LinearOracle.forward(layer, x, false);
        assertEquals(12L * Long.BYTES, layer.getPackedBytes(), "a densified copy is kept");
        layer.setExecution(BsrExecution.AUTO);
        NDArray sparse = LinearOracle.forward(layer, x, false);
        for (NDArray y : List.of(dense, sparse)) {
            LinearOracle.assertLinear(
                    structure,
                    LinearOracle.values(layer.getDirectParameters().get("weight").getArray()),
                    LinearOracle.values(layer.getDirectParameters().get("bias").getArray()),
                    BsrActivation.NONE,
                    x,
                    y);
        }
        assertThrows(NullPointerException.class, () -> layer.setExecution(null));
    }

    @Test
    void theReferenceOperatorSeesChangedValues() {
        BsrLinear layer =
                BsrLinear.builder().setMatrix(matrix).optExecution(BsrExecution.DENSE).build();
        layer.initialize(manager, DataType.FLOAT64, new Shape(1, 8));
        NDArray x = LinearOracle.input(random, manager, DataType.FLOAT64, 5, 8);
        NDArray weight = layer.getDirectParameters().get("weight").getArray();
        LinearOracle.forward(layer, x, false);
        weight.addi(1);
        LinearOracle.assertLinear(
                structure,
                LinearOracle.values(weight),
                LinearOracle.values(layer.getDirectParameters().get("bias").getArray()),
                BsrActivation.NONE,
                x,
                LinearOracle.forward(layer, x, false));
    }

    @Test
    void thePropertyOverridesAllLayers() {
        System.setProperty(BsrExecution.PROPERTY, "bsr");
        BsrLinear layer =
                BsrLinear.builder().setMatrix(matrix).optExecution(BsrExecution.DENSE).build();
        assertEquals(BsrExecution.BSR, layer.getExecution());
        layer.setExecution(BsrExecution.DENSE);
        assertEquals(BsrExecution.BSR, layer.getExecution());
        System.setProperty(BsrExecution.PROPERTY, "sometimes");
        BsrLinear.Builder builder = BsrLinear.builder().setMatrix(matrix);
        IllegalArgumentException e = assertThrows(IllegalArgumentException.class, builder::build);
        assertTrue(e.getMessage().contains("is sometimes; use auto, bsr or dense"), e.getMessage());
    }

    /** Random shapes, blocks and data types, through whole layers. */
    @Test
    void denseLayersComputeTheSameFunction() {
        for (int i = 0; i < 40; i++) {
            int blockRows = 1 + random.nextInt(9);
            int blockCols = 1 + random.nextInt(9);
            BsrMatrix w =
                    LinearOracle.random(
                            random,
                            blockRows * (1 + random.nextInt(7)),
                            blockCols * (1 + random.nextInt(7)),
                            blockRows,
                            blockCols,
                            random.nextDouble());
            DataType type = i % 3 == 0 ? DataType.FLOAT64 : DataType.FLOAT32;
            BsrLinear layer =
                    BsrLinear.builder()
                            .setMatrix(w)
                            .optExecution(BsrExecution.DENSE)
                            .optActivation(BsrActivation.ofCode(i % 5))
                            .build();
            layer.initialize(manager, type, new Shape(1, w.getStructure().getCols()));
            NDArray x =
                    LinearOracle.input(
                            random, manager, type, random.nextInt(6), w.getStructure().getCols());
            LinearOracle.assertLinear(
                    w.getStructure(),
                    LinearOracle.values(layer.getDirectParameters().get("weight").getArray()),
                    LinearOracle.values(layer.getDirectParameters().get("bias").getArray()),
                    layer.getActivation(),
                    x,
                    LinearOracle.forward(layer, x, false));
        }
        assertEquals(
                ReferenceBsrOperator.NAME,
                io.djlbsr.operator.BsrOperators.select(manager, Device.cpu(), DataType.FLOAT32)
                        .getName());
    }
}
