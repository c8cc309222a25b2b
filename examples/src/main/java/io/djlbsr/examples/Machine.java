/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import ai.djl.engine.Engine;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.LocalDate;
import java.time.ZoneOffset;

/**
 * The machine that figures were taken on.
 *
 * @param date the day, in UTC
 * @param processor the processor's name
 * @param processors the processors of this process
 * @param threads the threads of PyTorch and the kernels
 * @param pytorch the version of PyTorch
 * @param loadAverage how busy the machine was just before, in running threads
 */
record Machine(
        String date,
        String processor,
        int processors,
        int threads,
        String pytorch,
        double loadAverage) {

    /** DJL reads it when the engine is loaded. */
    static final String THREADS_PROPERTY = "ai.djl.pytorch.num_threads";

    /** Reads it now: before the measurements, which are load themselves. */
    static Machine read() throws IOException {
        int processors = Runtime.getRuntime().availableProcessors();
        return new Machine(
                LocalDate.now(ZoneOffset.UTC).toString(),
                processorName(),
                processors,
                Integer.getInteger(THREADS_PROPERTY, processors),
                Engine.getEngine("PyTorch").getVersion(),
                ManagementFactory.getOperatingSystemMXBean().getSystemLoadAverage());
    }

    private static String processorName() throws IOException {
        Path info = Path.of("/proc/cpuinfo");
        if (Files.isReadable(info)) {
            for (String line : Files.readAllLines(info)) {
                if (line.startsWith("model name")) {
                    return line.substring(line.indexOf(':') + 1).strip();
                }
            }
        }
        return System.getProperty("os.arch");
    }

    @Override
    public String toString() {
        return "%s, %d processors, %d threads, PyTorch %s, load average %.1f, %s"
                .formatted(processor, processors, threads, pytorch, loadAverage, date);
    }
}
