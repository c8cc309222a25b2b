/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.benchmarks;

import io.djlbsr.jni.CudaMemory;
import io.djlbsr.jni.LinearCall;
import io.djlbsr.jni.NativeLibrary;
import io.djlbsr.jni.global.DjlBsr;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OperationsPerInvocation;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;
import org.openjdk.jmh.infra.Blackhole;

/**
 * What a thread of a JVM spends in a call of {@code djlbsr_linear} on a GPU, which returns when the
 * work is queued, beside a call of a native function that reads one flag. The queue is emptied
 * between the measured batches and never full. The output of each case is checked against float64
 * first. Needs a CUDA device.
 */
@BenchmarkMode(Mode.SingleShotTime)
@OutputTimeUnit(TimeUnit.NANOSECONDS)
@Fork(1)
@Warmup(iterations = 200)
@Measurement(iterations = 300)
public class HostOverheadBenchmark {

    private static final int CALLS = 256; // a stream holds about 1000

    /** A call with a weight of 64 x 64 blocks in fp16, one of eight of which is stored. */
    @State(Scope.Thread)
    public static class Call {

        /** Output x input features. */
        @Param({"11008x4096", "1024x1024"})
        public String shape;

        /** Rows of the input. */
        @Param({"1", "16", "128"})
        public int tokens;

        private CudaMemory memory;
        private LinearCall call;

        /** Packs the weight, and checks one call. */
        @Setup(Level.Trial)
        public void setUp() {
            load();
            memory = new CudaMemory();
            int[] features = Pair.parse(shape);
            call =
                    new LinearCall(
                            memory,
                            DjlBsr.DJLBSR_FLOAT16,
                            new int[] {64, 64},
                            new int[] {features[0] / 64, features[1] / 64},
                            0.125,
                            tokens,
                            1);
            call.poison();
            LinearCall.checkCall(call.queue());
            call.check();
            System.out.println(memory.deviceName() + ": " + call + " by " + call.kernelName());
        }

        /** Wakes the GPU from the pause between two iterations. */
        @Setup(Level.Iteration)
        public void wake() {
            for (int i = 0; i < CALLS; ++i) {
                LinearCall.checkCall(call.queue());
            }
            memory.synchronize();
        }

        /** Empties the queue. */
        @TearDown(Level.Iteration)
        public void synchronize() {
            memory.synchronize();
        }

        /** Checks the output of the last call, and frees all memory. */
        @TearDown(Level.Trial)
        public void tearDown() {
            call.check();
            memory.close();
        }
    }

    /** Loads the library. */
    @State(Scope.Thread)
    public static class Library {

        /** Loads it. */
        @Setup(Level.Trial)
        public void setUp() {
            load();
        }
    }

    private static void load() {
        NativeLibrary.load()
                .ifPresent(
                        reason -> {
                            throw new IllegalStateException(reason);
                        });
    }

    /**
     * Calls a function that does next to nothing.
     *
     * @param library loaded
     * @param hole where results go
     */
    @Benchmark
    @OperationsPerInvocation(CALLS)
    public void emptyCall(Library library, Blackhole hole) {
        for (int i = 0; i < CALLS; ++i) {
            hole.consume(DjlBsr.djlbsr_allow_tf32());
        }
    }

    /**
     * Queues linear layers.
     *
     * @param state the layer
     */
    @Benchmark
    @OperationsPerInvocation(CALLS)
    public void linear(Call state) {
        for (int i = 0; i < CALLS; ++i) {
            LinearCall.checkCall(state.call.queue());
        }
    }
}
