/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.jni;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.djlbsr.jni.global.DjlBsr;
import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.bytedeco.javacpp.Loader;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Each case but the first runs in a JVM of its own: a process loads the library once. */
class NativeLibraryTest {

    private static final String LOADED = "LOADED ";
    private static final String REFUSED = "REFUSED ";

    @TempDir Path folder;

    /** Loads twice, so that the remembered answer is tested too. */
    public static final class Probe {

        private Probe() {}

        public static void main(String[] args) {
            String first = NativeLibrary.load().orElse("");
            if (!first.equals(NativeLibrary.load().orElse(""))) {
                throw new AssertionError("the second answer differs from " + first);
            }
            System.out.println(
                    first.isEmpty()
                            ? LOADED + NativeLibrary.getPath().orElseThrow()
                            : REFUSED + first);
        }
    }

    /** What an application server's user writes. */
    public static final class Helper {

        private Helper() {}

        public static void load(String path) {
            System.out.println("helper got " + path);
            System.load(path);
        }
    }

    @Test
    void theBundledLibraryLoads() {
        assertEquals(List.of(), NativeLibrary.load().stream().toList());
        assertEquals(NativeLibrary.getVersion().replace("-SNAPSHOT", ""), DjlBsr.djlbsr_version());
        assertTrue(Files.isRegularFile(NativeLibrary.getPath().orElseThrow()));
        assertTrue(
                List.of("portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx")
                        .contains(DjlBsr.djlbsr_active_isa()),
                DjlBsr.djlbsr_active_isa());
        assertTrue(NativeLibrary.getSteps().size() >= 3, NativeLibrary.getSteps().toString());
    }

    @Test
    void anExplicitFileOrFolderIsUsed() throws Exception {
        Path copy = copyLibrary();
        assertEquals(LOADED + copy, probe(property(copy), Map.of()));
        assertEquals(LOADED + copy, probe(property(folder), Map.of()));
        assertEquals(
                LOADED + copy,
                probe(List.of(), Map.of(NativeLibrary.PATH_VARIABLE, copy.toString())));
    }

    @Test
    void aMissingExplicitPathIsAnErrorThatNamesIt() throws Exception {
        Path nowhere = folder.resolve("nowhere");
        assertRefused(probe(property(nowhere), Map.of()), NativeLibrary.PATH_PROPERTY, nowhere);
        assertRefused(
                probe(List.of(), Map.of(NativeLibrary.PATH_VARIABLE, nowhere.toString())),
                NativeLibrary.PATH_VARIABLE,
                nowhere);
        assertRefused(probe(property(folder), Map.of()), "there is no file", folder);
    }

    @Test
    void garbageIsRefused() throws Exception {
        Path file = folder.resolve(System.mapLibraryName("djlbsr"));
        Files.writeString(file, "not a library");
        assertRefused(probe(property(file), Map.of()), "cannot be loaded", file);
    }

    @Test
    void anotherLibraryIsRefused() throws Exception {
        Path file = folder.resolve(System.mapLibraryName("djlbsr"));
        Files.copy(
                Path.of(System.getProperty("java.home"), "lib", System.mapLibraryName("prefs")),
                file);
        assertRefused(probe(property(file), Map.of()), "is not a libdjlbsr", file);
    }

    @Test
    void anotherVersionIsRefused() throws Exception {
        Path copy = copyLibrary();
        // ISO-8859-1 maps bytes to chars one to one.
        String bytes = Files.readString(copy, StandardCharsets.ISO_8859_1);
        String version = '\0' + NativeLibrary.getVersion().replace("-SNAPSHOT", "") + '\0';
        assertTrue(bytes.contains(version), "the library holds no version string");
        Files.writeString(
                copy, bytes.replace(version, "\0" + "9.9.9\0"), StandardCharsets.ISO_8859_1);
        assertRefused(probe(property(copy), Map.of()), "has version 9.9.9", copy);
    }

    @Test
    void theHelperLoadsTheLibrary() throws Exception {
        String helper = "-D" + NativeLibrary.HELPER_PROPERTY + '=';
        String output = probe(List.of(helper + Helper.class.getName()), Map.of());
        assertTrue(output.contains("helper got ") && output.contains(LOADED), output);
        assertRefused(
                probe(List.of(helper + "no.such.Helper"), Map.of()),
                NativeLibrary.HELPER_PROPERTY,
                "no.such.Helper");
    }

    private Path copyLibrary() throws IOException {
        String name = System.mapLibraryName("djlbsr");
        Path copy = folder.resolve(name);
        try (var in = NativeLibrary.class.getResourceAsStream(Loader.getPlatform() + '/' + name)) {
            Files.copy(in, copy);
        }
        return copy;
    }

    private static List<String> property(Path path) {
        return List.of("-D" + NativeLibrary.PATH_PROPERTY + '=' + path);
    }

    private static void assertRefused(String output, Object... parts) {
        assertTrue(output.contains(REFUSED), output);
        for (Object part : parts) {
            assertTrue(output.contains(part.toString()), part + " is not in: " + output);
        }
    }

    private String probe(List<String> options, Map<String, String> environment) throws Exception {
        List<String> command = new ArrayList<>();
        command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
        command.add("-Xshare:auto");
        command.addAll(options);
        command.add("-cp");
        command.add(System.getProperty("java.class.path"));
        command.add(Probe.class.getName());
        File output = folder.resolve("output.txt").toFile();
        ProcessBuilder builder =
                new ProcessBuilder(command).redirectErrorStream(true).redirectOutput(output);
        builder.environment().remove(NativeLibrary.PATH_VARIABLE);
        builder.environment().putAll(environment);
        Process process = builder.start();
        try {
            assertTrue(process.waitFor(60, TimeUnit.SECONDS), "the JVM did not end");
        } finally {
            process.destroyForcibly();
        }
        String text = Files.readString(output.toPath()).strip();
        assertEquals(0, process.exitValue(), text);
        return text;
    }
}
