/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ai.djl.Device;
import ai.djl.engine.Engine;
import ai.djl.engine.EngineException;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import io.djlbsr.jni.NativeLibrary;
import io.djlbsr.operator.BsrOperators;
import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What a process does without its library, in JVMs of their own. */
class MissingLibraryTest {

    @TempDir Path folder;

    /** Selects an operator, asks for the engine twice and reports. */
    public static final class Probe {

        private Probe() {}

        public static void main(String[] args) {
            Engine.getAllEngines();
            System.out.println("after discovery: " + NativeLibrary.getSteps());
            try (NDManager manager = NDManager.newBaseManager()) {
                System.out.println(
                        "selected: "
                                + BsrOperators.select(manager, Device.cpu(), DataType.FLOAT32)
                                        .getName());
            }
            for (int i = 0; i < 2; ++i) {
                try {
                    System.out.println("engine: " + Engine.getEngine("BSR").getEngineName());
                } catch (EngineException e) {
                    System.out.println("refused: " + e.getMessage());
                }
            }
            System.out.println(BsrDebug.report());
        }
    }

    @Test
    void discoveryLoadsNothing() throws Exception {
        String output = probe();
        assertTrue(output.contains("after discovery: []"), output);
        assertTrue(output.contains("selected: pytorch-native"), output);
        assertTrue(output.contains("engine: BSR"), output);
        assertFalse(output.contains("WARN BsrOperators"), output);
    }

    @Test
    void withoutTheLibraryTheReferenceServesAndTheReasonIsTold() throws Exception {
        check("nowhere", "there is no file");
    }

    @Test
    void aDamagedLibraryIsTheSame() throws Exception {
        Path garbage = folder.resolve("libdjlbsr.so");
        Files.writeString(garbage, "\177ELF and nothing more");
        check("libdjlbsr.so", "cannot be loaded");
    }

    private void check(String file, String reason) throws Exception {
        Path path = folder.resolve(file);
        String output = probe("-D" + NativeLibrary.PATH_PROPERTY + '=' + path);
        assertTrue(output.contains("selected: reference"), output);
        assertEquals(
                2, output.lines().filter(line -> line.startsWith("refused: ")).count(), output);
        List<String> told = output.lines().filter(line -> line.contains(reason)).toList();
        // The log of the selection, the engine's two answers, and the report.
        assertTrue(told.size() >= 4, output);
        assertTrue(told.stream().anyMatch(line -> line.startsWith("WARN ")), output);
        assertTrue(told.stream().allMatch(line -> line.contains(path.toString())), output);
        assertTrue(output.contains("cpu() float32: reference"), output);
    }

    private String probe(String... options) throws Exception {
        List<String> command = new ArrayList<>();
        command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
        command.addAll(List.of(options));
        command.add("-cp");
        command.add(System.getProperty("java.class.path"));
        command.add(Probe.class.getName());
        File output = folder.resolve("output.txt").toFile();
        ProcessBuilder builder =
                new ProcessBuilder(command).redirectErrorStream(true).redirectOutput(output);
        builder.environment().remove(NativeLibrary.PATH_VARIABLE);
        Process process = builder.start();
        try {
            assertTrue(process.waitFor(120, TimeUnit.SECONDS), "the JVM did not end");
        } finally {
            process.destroyForcibly();
        }
        String text = Files.readString(output.toPath());
        assertEquals(0, process.exitValue(), text);
        return text;
    }
}
