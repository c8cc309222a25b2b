/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import ai.djl.engine.Engine;
import ai.djl.ndarray.types.DataType;
import ai.djl.util.Utils;
import io.djlbsr.jni.global.DjlBsr;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.EnumMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Supplier;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The times by which block-sparse or dense is chosen on this machine's CPU, one profile for each
 * data type, measured once and kept in a file.
 *
 * <p>A profile holds the seconds that PyTorch's dense {@code linear} and the block-sparse kernels
 * take for products of several sizes on one thread, {@code djlbsr_predict} interpolates between
 * them. Measuring takes about a second. The file lies in {@code djlbsr} in DJL's engine cache
 * directory ({@code DJL_CACHE_DIR}), and counts for its processor, instruction set, library and
 * PyTorch alone.
 *
 * <p>The system property {@value #PROPERTY} changes that: {@code builtin} measures nothing and
 * takes a profile that is built into the library, {@code measure} measures anew and replaces the
 * file, and a path names the file to use instead, which must be there.
 */
final class CpuProfiles {

    /** The system property that tells where profiles come from. */
    static final String PROPERTY = "io.djlbsr.cpu_profile";

    private static final Logger logger = LoggerFactory.getLogger(CpuProfiles.class);
    private static final String BUILTIN = "builtin";
    private static final String MEASURE = "measure";

    private final Source source;
    private final Supplier<String> setting;
    private volatile Map<DataType, String> origins = Map.of();

    /** Where profiles come from and go to; native code but in tests. */
    interface Source {
        /** What a file's times hold for. */
        CpuProfileFile.Key key(DataType dataType);

        /** The names of the times, in the order of the arrays. */
        List<String> points();

        double[] measure(DataType dataType);

        /** Sets the profile of this process; throws IllegalArgumentException where it is broken. */
        void use(DataType dataType, double[] seconds);

        /** The folder of the files. */
        Path folder();
    }

    CpuProfiles(Source source, Supplier<String> setting) {
        this.source = source;
        this.setting = setting;
    }

    /** Sees to it that predictions for a data type use the profile of this machine. */
    static void ensure(DataType dataType) {
        Holder.INSTANCE.load(dataType);
    }

    /** Tells where the profiles in use came from. */
    static String describe() {
        Map<DataType, String> origins = Holder.INSTANCE.origins;
        return origins.isEmpty() ? "none needed yet" : new TreeMap<>(origins).toString();
    }

    /** Loads or measures the profile of a data type, once. */
    void load(DataType dataType) {
        if (!origins.containsKey(dataType)) {
            loadOnce(dataType);
        }
    }

    private synchronized void loadOnce(DataType dataType) {
        if (origins.containsKey(dataType)) {
            return;
        }
        String origin;
        try {
            origin = choose(dataType);
        } catch (RuntimeException | IOException e) {
            // A choice that may be worse must not fail the call that it is for.
            logger.warn(
                    "The CPU profile for {} cannot be had; the choice between block-sparse and dense"
                            + " uses the built-in one",
                    dataType,
                    e);
            origin = BUILTIN + ", because of " + e;
        }
        Map<DataType, String> next = new EnumMap<>(DataType.class);
        next.putAll(origins);
        next.put(dataType, origin);
        origins = next;
    }

    private String choose(DataType dataType) throws IOException {
        String from = setting.get();
        if (from.equals(BUILTIN)) {
            return BUILTIN;
        }
        CpuProfileFile.Key key = source.key(dataType);
        if (!from.isEmpty() && !from.equals(MEASURE)) {
            CpuProfileFile file = new CpuProfileFile(Path.of(from), key, source.points());
            source.use(dataType, file.read());
            return from;
        }
        Path folder = source.folder();
        CpuProfileFile file =
                new CpuProfileFile(folder.resolve(key.fileName()), key, source.points());
        if (!from.equals(MEASURE) && use(dataType, file)) {
            return file.path().toString();
        }
        return measure(dataType, file, from.equals(MEASURE));
    }

    /** Uses a file if it is there and right. */
    private boolean use(DataType dataType, CpuProfileFile file) {
        if (!Files.exists(file.path())) {
            return false;
        }
        try {
            source.use(dataType, file.read());
            return true;
        } catch (IOException | IllegalArgumentException e) {
            logger.warn(
                    "The CPU profile {} is not usable and is measured anew: {}",
                    file.path(),
                    e.getMessage());
            return false;
        }
    }

    private String measure(DataType dataType, CpuProfileFile file, boolean replace) {
        try (CpuProfileFile.Lock lock = file.lock()) {
            // Another process may have measured while this one waited.
            if (!replace && lock.waited() && use(dataType, file)) {
                return file.path().toString();
            }
            long start = System.nanoTime();
            double[] seconds = source.measure(dataType);
            source.use(dataType, seconds);
            long millis = (System.nanoTime() - start) / 1_000_000;
            file.write(seconds);
            logger.info(
                    "Measured {} products on this CPU in {} ms to choose between block-sparse and"
                            + " dense; kept in {}. -D{}={} prevents this.",
                    dataType,
                    millis,
                    file.path(),
                    PROPERTY,
                    BUILTIN);
            return file.path().toString();
        } catch (IOException e) {
            logger.warn("The CPU profile cannot be kept in {}: {}", file.path(), e.toString());
            return "measured by this process alone";
        }
    }

    private static final class Holder {
        static final CpuProfiles INSTANCE =
                new CpuProfiles(new NativeSource(), () -> System.getProperty(PROPERTY, ""));
    }

    private static final class NativeSource implements Source {

        @Override
        public CpuProfileFile.Key key(DataType dataType) {
            return new CpuProfileFile.Key(
                    CpuProfileFile.processor(),
                    DjlBsr.djlbsr_active_isa(),
                    DjlBsr.djlbsr_version() + ", format " + DjlBsr.DJLBSR_FORMAT_VERSION,
                    Engine.getEngine(BsrNative.PYTORCH).getVersion(),
                    dataType.name().toLowerCase(Locale.ROOT));
        }

        @Override
        public List<String> points() {
            List<String> points = new ArrayList<>();
            for (int i = 0; i < DjlBsr.DJLBSR_PROFILE_POINTS; i++) {
                points.add(DjlBsr.djlbsr_profile_point(i));
            }
            return points;
        }

        @Override
        public double[] measure(DataType dataType) {
            double[] seconds = new double[DjlBsr.DJLBSR_PROFILE_POINTS];
            BsrNative.checkCall(DjlBsr.djlbsr_torch_measure_profile(code(dataType), seconds));
            return seconds;
        }

        @Override
        public void use(DataType dataType, double[] seconds) {
            BsrNative.checkCall(DjlBsr.djlbsr_set_profile(code(dataType), seconds));
        }

        @Override
        public Path folder() {
            return Utils.getEngineCacheDir("djlbsr");
        }

        private static int code(DataType dataType) {
            return switch (dataType) {
                case FLOAT32 -> DjlBsr.DJLBSR_FLOAT32;
                case FLOAT16 -> DjlBsr.DJLBSR_FLOAT16;
                default -> throw new IllegalArgumentException("no profile for " + dataType);
            };
        }
    }
}
