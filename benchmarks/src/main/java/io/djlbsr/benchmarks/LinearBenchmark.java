/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.benchmarks;

import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.Block;
import ai.djl.nn.Parameter;
import ai.djl.nn.core.Linear;
import ai.djl.training.ParameterStore;
import ai.djl.training.initializer.NormalInitializer;
import io.djlbsr.BsrMatrix;
import io.djlbsr.nn.BlockPruner;
import io.djlbsr.nn.BsrExecution;
import io.djlbsr.nn.BsrLinear;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;

/**
 * A {@link BsrLinear} in each {@link BsrExecution}, and DJL's dense {@link Linear}, on random data
 * through {@code Block.forward}, as a model calls them. The defaults are a small grid; {@code -p}
 * sets others, such as {@code -p shape=384x1536,4096x4096 -p tokens=1,8,64,512,4096}.
 */
@BenchmarkMode(Mode.SampleTime)
@OutputTimeUnit(TimeUnit.MICROSECONDS)
@Fork(1)
@Warmup(iterations = 2, time = 500, timeUnit = TimeUnit.MILLISECONDS)
@Measurement(iterations = 5, time = 400, timeUnit = TimeUnit.MILLISECONDS)
public class LinearBenchmark {

    /** Weights, inputs and their manager. */
    public abstract static class Layers {

        private NDManager manager;
        private ParameterStore store;
        private NDList inputs;

        final Linear randomLinear(int[] shape, int tokens) {
            manager = NDManager.newBaseManager("PyTorch");
            store = new ParameterStore(manager, false);
            inputs = new NDList(manager.randomNormal(new Shape(tokens, shape[1])));
            Linear linear = Linear.builder().setUnits(shape[0]).build();
            linear.setInitializer(new NormalInitializer(1f), Parameter.Type.WEIGHT);
            linear.setInitializer(new NormalInitializer(1f), Parameter.Type.BIAS);
            linear.initialize(manager, DataType.FLOAT32, new Shape(1, shape[1]));
            return linear;
        }

        final void forward(Block block) {
            block.forward(store, inputs, false).close();
        }

        final void close() {
            manager.close();
        }
    }

    /** DJL's own layer, fully dense. */
    @State(Scope.Benchmark)
    public static class Dense extends Layers {

        /** Output x input features. */
        @Param({"768x3072"})
        public String shape;

        /** The product of the input's leading dimensions. */
        @Param({"1", "16", "128"})
        public int tokens;

        private Linear linear;

        /** Makes the layer. */
        @Setup(Level.Trial)
        public void setUp() {
            linear = randomLinear(Pair.parse(shape), tokens);
        }

        /** Frees it. */
        @TearDown(Level.Trial)
        public void tearDown() {
            close();
        }
    }

    /** A block-sparse layer of blocks by magnitude, which are random here. */
    @State(Scope.Benchmark)
    public static class Sparse extends Layers {

        /** Output x input features. */
        @Param({"768x3072"})
        public String shape;

        /** The product of the input's leading dimensions. */
        @Param({"1", "16", "128"})
        public int tokens;

        /** The block shape. */
        @Param({"32x32", "16x16", "8x8", "4x4"})
        public String block;

        /** The fraction of the blocks that is removed. */
        @Param({"0.5", "0.875"})
        public double sparsity;

        /** How the layer computes. */
        @Param({"AUTO", "BSR", "DENSE"})
        public BsrExecution execution;

        private BsrLinear layer;

        /** Makes the layer, and lets it pack, measure and densify what it wants. */
        @Setup(Level.Trial)
        public void setUp() {
            int[] blocks = Pair.parse(block);
            Linear dense = randomLinear(Pair.parse(shape), tokens);
            BsrMatrix matrix =
                    BlockPruner.builder()
                            .setBlockShape(blocks[0], blocks[1])
                            .setDensity(1 - sparsity)
                            .build()
                            .prune(dense.getDirectParameters().get("weight").getArray());
            layer = BsrLinear.fromLinear(dense, matrix);
            layer.setExecution(execution);
            forward(layer);
        }

        /** Frees it. */
        @TearDown(Level.Trial)
        public void tearDown() {
            close();
        }
    }

    /**
     * Times DJL's dense layer.
     *
     * @param state the layer
     */
    @Benchmark
    public void djlLinear(Dense state) {
        state.forward(state.linear);
    }

    /**
     * Times the block-sparse layer.
     *
     * @param state the layer
     */
    @Benchmark
    public void bsrLinear(Sparse state) {
        state.forward(state.layer);
    }
}
