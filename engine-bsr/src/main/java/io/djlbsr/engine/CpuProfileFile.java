/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import ai.djl.util.JsonUtils;
import com.google.gson.JsonParseException;
import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.channels.OverlappingFileLockException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/** A profile as JSON: what it holds for, and the seconds of every point by its name. */
final class CpuProfileFile {

    private static final String KEY = "holdsFor";
    private static final String SECONDS = "seconds";
    private static final double MAX_SECONDS = 1e6;

    /** A process that stopped with the lock must not stop the calls of others. */
    private static final long MAX_WAIT_NANOS = 10_000_000_000L;

    private final Path path;
    private final Key key;
    private final List<String> points;

    /** What a profile holds for. */
    record Key(String processor, String isa, String library, String pytorch, String dataType) {

        /** A name that differs for different keys. */
        String fileName() {
            int hash = String.join("\n", processor, isa, library, pytorch, dataType).hashCode();
            return String.format(Locale.ROOT, "cpu-profile-%s-%s-%08x.json", dataType, isa, hash);
        }
    }

    /** The JSON's shape; fields that a file lacks are null. */
    private record Content(Key holdsFor, Map<String, Double> seconds) {}

    CpuProfileFile(Path path, Key key, List<String> points) {
        this.path = path;
        this.key = key;
        this.points = points;
    }

    Path path() {
        return path;
    }

    /**
     * Reads the times.
     *
     * @throws IOException if the file cannot be read
     * @throws IllegalArgumentException if it is damaged or holds for something else
     */
    double[] read() throws IOException {
        Content content;
        try {
            content = JsonUtils.GSON.fromJson(Files.readString(path), Content.class);
        } catch (JsonParseException e) {
            throw new IllegalArgumentException(
                    "it is not the JSON of a profile: " + e.getMessage(), e);
        }
        if (content == null || content.holdsFor == null || content.seconds == null) {
            throw new IllegalArgumentException("it lacks \"" + KEY + "\" or \"" + SECONDS + "\"");
        }
        if (!content.holdsFor.equals(key)) {
            throw new IllegalArgumentException(
                    "it holds for " + content.holdsFor + ", not for " + key);
        }
        double[] seconds = new double[points.size()];
        for (int i = 0; i < seconds.length; i++) {
            Double value = content.seconds.get(points.get(i));
            if (value == null || !(value > 0 && value < MAX_SECONDS)) {
                throw new IllegalArgumentException(
                        "the time of \"" + points.get(i) + "\" is " + value);
            }
            seconds[i] = value;
        }
        return seconds;
    }

    /** Writes the file whole or not at all. */
    void write(double[] seconds) throws IOException {
        Map<String, Double> named = new LinkedHashMap<>();
        for (int i = 0; i < seconds.length; i++) {
            named.put(points.get(i), seconds[i]);
        }
        Path folder = folder();
        Files.createDirectories(folder);
        // Not a temporary file, which other users could not read.
        Path written = folder.resolve(path.getFileName() + "." + ProcessHandle.current().pid());
        try {
            Files.writeString(written, JsonUtils.GSON_PRETTY.toJson(new Content(key, named)));
            Files.move(
                    written,
                    path,
                    StandardCopyOption.ATOMIC_MOVE,
                    StandardCopyOption.REPLACE_EXISTING);
        } finally {
            Files.deleteIfExists(written);
        }
    }

    private Path folder() {
        return path.toAbsolutePath().getParent();
    }

    /** Keeps other processes from measuring at the same time; goes on without where it cannot. */
    Lock lock() {
        try {
            Files.createDirectories(folder());
            FileChannel channel =
                    FileChannel.open(
                            folder().resolve("cpu-profile.lock"),
                            StandardOpenOption.CREATE,
                            StandardOpenOption.WRITE);
            try {
                boolean waited = false;
                long end = System.nanoTime() + MAX_WAIT_NANOS;
                while (channel.tryLock() == null && System.nanoTime() < end) {
                    waited = true;
                    Thread.sleep(20);
                }
                return new Lock(channel, waited);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
                return new Lock(channel, true);
            } catch (IOException | OverlappingFileLockException e) {
                return new Lock(channel, true);
            }
        } catch (IOException e) {
            return new Lock(null, false);
        }
    }

    /** Held until it is closed. */
    record Lock(FileChannel channel, boolean waited) implements AutoCloseable {

        @Override
        public void close() throws IOException {
            if (channel != null) {
                channel.close();
            }
        }
    }

    /** The processor's name, or the architecture where the system does not tell. */
    static String processor() {
        try {
            for (String line : Files.readAllLines(Path.of("/proc/cpuinfo"))) {
                if (line.startsWith("model name")) {
                    return line.substring(line.indexOf(':') + 1).strip();
                }
            }
        } catch (IOException e) {
            return System.getProperty("os.arch");
        }
        return System.getProperty("os.arch");
    }
}
