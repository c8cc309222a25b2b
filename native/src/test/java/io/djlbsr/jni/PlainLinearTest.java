/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.jni;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import io.djlbsr.jni.global.DjlBsr;
import java.util.Set;
import java.util.TreeSet;
import org.bytedeco.javacpp.Pointer;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** The functions on plain memory from Java: on the CPU, and on a GPU where there is one. */
class PlainLinearTest {

    private static final int[] DTYPES = {
        DjlBsr.DJLBSR_FLOAT32, DjlBsr.DJLBSR_FLOAT16, DjlBsr.DJLBSR_BFLOAT16
    };

    /** Blocks and tokens that different kernels serve. */
    private static final int[][] BLOCKS = {{128, 128}, {64, 64}, {32, 64}, {16, 16}, {5, 7}};

    private static final int[] TOKENS = {1, 16, 128, 300};

    @BeforeAll
    static void load() {
        assertEquals("", NativeLibrary.load().orElse(""));
    }

    @Test
    void linearOnTheCpu() {
        try (DeviceMemory memory = new HostMemory()) {
            linear(memory);
        }
    }

    @Test
    void linearOnAGpu() {
        try (DeviceMemory memory = cuda()) {
            Set<String> kernels = linear(memory);
            assertTrue(kernels.size() >= 3, "only these kernels ran: " + kernels);
        }
    }

    /** A captured call neither runs nor synchronizes; the replay computes. */
    @Test
    void linearInACudaGraph() {
        try (CudaMemory memory = cuda()) {
            for (int tokens : TOKENS) {
                LinearCall call = call(memory, DjlBsr.DJLBSR_FLOAT16, BLOCKS[1], tokens);
                LinearCall.checkCall(call.queue());
                call.check();
                CudaMemory.Work replay = memory.capture(() -> LinearCall.checkCall(call.queue()));
                call.poison(); // also what a call would have written that ran at once
                replay.queue();
                call.check();
            }
        }
    }

    @Test
    void wrongArgumentsAreRefused() {
        try (DeviceMemory memory = new HostMemory()) {
            refuse(memory);
        }
    }

    @Test
    void wrongArgumentsAreRefusedOnAGpu() {
        try (DeviceMemory memory = cuda()) {
            refuse(memory);
        }
    }

    private static Set<String> linear(DeviceMemory memory) {
        Set<String> kernels = new TreeSet<>();
        for (int dtype : DTYPES) {
            for (int[] block : BLOCKS) {
                for (int tokens : TOKENS) {
                    LinearCall call = call(memory, dtype, block, tokens);
                    call.poison();
                    LinearCall.checkCall(call.queue());
                    call.check();
                    kernels.add(call.kernelName());
                }
            }
        }
        return kernels;
    }

    private static void refuse(DeviceMemory memory) {
        LinearCall call = call(memory, DjlBsr.DJLBSR_FLOAT32, BLOCKS[3], 16);
        call.args().activation(9);
        assertEquals(DjlBsr.DJLBSR_INVALID_ARGUMENT, call.queue());
        assertTrue(
                DjlBsr.djlbsr_last_error().contains("activation is 9"), DjlBsr::djlbsr_last_error);
        call.args().activation(DjlBsr.DJLBSR_RELU);
        Pointer x = call.args().x();
        call.args().x(null);
        assertEquals(DjlBsr.DJLBSR_INVALID_ARGUMENT, call.queue());
        assertEquals("x is null", DjlBsr.djlbsr_last_error());
        call.args().x(x);
        LinearCall.checkCall(call.queue());
        call.check();
    }

    private static LinearCall call(DeviceMemory memory, int dtype, int[] block, int tokens) {
        return new LinearCall(memory, dtype, block, new int[] {7, 9}, 0.4, tokens, 31L + tokens);
    }

    private static CudaMemory cuda() {
        assumeTrue(
                DjlBsr.djlbsr_cuda_device_count() > 0,
                () ->
                        DjlBsr.djlbsr_capabilities()
                                .lines()
                                .filter(line -> line.startsWith("cuda devices"))
                                .findFirst()
                                .orElseThrow());
        return new CudaMemory();
    }
}
