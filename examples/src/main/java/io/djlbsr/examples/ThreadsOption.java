/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** The option of command lines that run PyTorch; to be applied before its engine is loaded. */
final class ThreadsOption {

    @Spec(Spec.Target.MIXEE)
    private CommandSpec spec;

    @Option(
            names = "--threads",
            paramLabel = "N",
            description = "Threads of PyTorch and the kernels (default: one a processor).")
    private Integer threads;

    /** Throws if the number is wrong, else sets it for DJL. */
    void apply() {
        if (threads == null) {
            return;
        }
        if (threads < 1) {
            throw new ParameterException(
                    spec.commandLine(), "--threads " + threads + ": use 1 or more");
        }
        System.setProperty(Machine.THREADS_PROPERTY, Integer.toString(threads));
    }
}
