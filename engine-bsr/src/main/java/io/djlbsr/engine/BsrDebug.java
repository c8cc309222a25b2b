/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import ai.djl.Device;
import ai.djl.engine.Engine;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.pytorch.jni.JniUtils;
import ai.djl.pytorch.jni.LibUtils;
import io.djlbsr.jni.NativeLibrary;
import io.djlbsr.jni.global.DjlBsr;
import io.djlbsr.operator.BsrOperators;
import io.djlbsr.operator.OperatorStatus;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.bytedeco.javacpp.Loader;

/**
 * Tells what djl-bsr found in this process: the first thing to look at when it is slow or fails.
 */
public final class BsrDebug {

    private static final Path MAPS = Path.of("/proc/self/maps");
    private static final Pattern LIBRARY =
            Pattern.compile("(/.*/[^/]*(?:djl|torch|c10|gomp|iomp|cuda)[^/]*\\.so[^/]*)$");

    private BsrDebug() {}

    /**
     * Prints {@link #report} on the standard output, as {@link Engine#debugEnvironment} does for
     * DJL.
     */
    @SuppressWarnings("SystemOut")
    public static void debugEnvironment() {
        System.out.print(report());
    }

    /**
     * Reports versions, loaded libraries, what the native library can do on this machine, and which
     * operator serves each device and data type and why the others do not.
     *
     * @return lines of text; what cannot be found out is replaced by the reason
     */
    public static String report() {
        List<String> lines = new ArrayList<>();
        lines.add("--------------- djl-bsr ---------------");
        lines.add("djl-bsr: " + NativeLibrary.getVersion());
        lines.add("DJL: " + Engine.getDjlVersion());
        lines.add("JavaCPP: " + javaCppVersion());
        lines.add(
                "Java: "
                        + System.getProperty("java.version")
                        + " on "
                        + System.getProperty("os.name")
                        + ' '
                        + System.getProperty("os.arch"));
        Optional<String> unavailable = BsrNative.unavailable();
        Engine pytorch = null;
        try {
            pytorch = Engine.getEngine(BsrNative.PYTORCH);
            lines.add("PyTorch: " + pytorch.getVersion() + " in " + LibUtils.getLibtorchPath());
            lines.add("PyTorch threads: " + JniUtils.getNumThreads());
        } catch (RuntimeException e) {
            lines.add("PyTorch: not usable: " + e.getMessage());
        }
        lines.add("");
        lines.add("------------ native library -----------");
        lines.addAll(NativeLibrary.getSteps());
        unavailable.ifPresent(reason -> lines.add("not usable: " + reason));
        if (NativeLibrary.getPath().isPresent()) {
            lines.addAll(DjlBsr.djlbsr_capabilities().lines().toList());
            lines.add("cpu profiles: " + CpuProfiles.describe());
        }
        lines.add("");
        lines.add("----------- loaded libraries ----------");
        lines.addAll(loadedLibraries());
        if (pytorch != null) {
            lines.add("");
            lines.add("-------------- operators --------------");
            addOperators(pytorch, lines);
        }
        return String.join("\n", lines) + '\n';
    }

    private static void addOperators(Engine pytorch, List<String> lines) {
        List<Device> devices = new ArrayList<>();
        devices.add(Device.cpu());
        for (int i = 0; i < pytorch.getGpuCount(); ++i) {
            devices.add(Device.gpu(i));
        }
        lines.add("GPUs: " + (devices.size() - 1));
        for (Device device : devices) {
            try (NDManager manager = pytorch.newBaseManager(device)) {
                for (DataType type : new DataType[] {DataType.FLOAT32, DataType.FLOAT16}) {
                    List<OperatorStatus> found = BsrOperators.report(manager, device, type);
                    String server =
                            found.stream()
                                    .filter(OperatorStatus::serves)
                                    .map(OperatorStatus::name)
                                    .findFirst()
                                    .orElse("none");
                    lines.add(device + " " + type + ": " + server);
                    found.stream()
                            .filter(status -> !status.serves())
                            .forEach(status -> lines.add("  not " + status));
                }
            }
        }
    }

    private static List<String> loadedLibraries() {
        if (!Files.isReadable(MAPS)) {
            return List.of(MAPS + " is not readable here");
        }
        try {
            TreeSet<String> paths = new TreeSet<>();
            for (String line : Files.readAllLines(MAPS)) {
                Matcher matcher = LIBRARY.matcher(line);
                if (matcher.find()) {
                    paths.add(matcher.group(1));
                }
            }
            return List.copyOf(paths);
        } catch (IOException e) {
            return List.of(MAPS + " cannot be read: " + e.getMessage());
        }
    }

    private static String javaCppVersion() {
        try {
            return Loader.getVersion();
        } catch (IOException e) {
            return "unknown: " + e.getMessage();
        }
    }
}
