/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.jni;

import io.djlbsr.jni.global.DjlBsr;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.lang.reflect.InvocationTargetException;
import java.net.URI;
import java.net.URL;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.Properties;
import org.bytedeco.javacpp.Loader;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Loads {@code libdjlbsr} and its binding into the process, once.
 *
 * <p>The library comes from the first of these that is given; a given one that fails is an error
 * and never passed over:
 *
 * <ol>
 *   <li>the system property {@value #PATH_PROPERTY}, the library file or the folder that holds it;
 *   <li>the environment variable {@value #PATH_VARIABLE}, likewise;
 *   <li>the jar of this class, from which JavaCPP extracts it into its cache.
 * </ol>
 *
 * <p>The system property {@value #HELPER_PROPERTY} names a class with a static method {@code
 * load(String path)} that loads the library in its own class loader, as DJL's {@code
 * ai.djl.pytorch.native_helper} does: an application server needs it where two applications use the
 * library.
 *
 * <p>A process that uses PyTorch must load PyTorch first: both libraries then share one OpenMP
 * pool, and the operators can be registered.
 */
public final class NativeLibrary {

    /** The system property with the path of the library. */
    public static final String PATH_PROPERTY = "io.djlbsr.library.path";

    /** The environment variable with the path of the library. */
    public static final String PATH_VARIABLE = "DJLBSR_LIBRARY_PATH";

    /** The system property with the name of the class that loads the library. */
    public static final String HELPER_PROPERTY = "io.djlbsr.native_helper";

    private static final Logger logger = LoggerFactory.getLogger(NativeLibrary.class);

    private static final List<String> steps = new ArrayList<>();
    private static boolean tried;
    private static String failure;
    private static Path path;

    private NativeLibrary() {}

    /**
     * Loads the library if that was not tried before.
     *
     * @return empty if the library is loaded, else why it is not and what to do about it: the same
     *     answer at every call
     */
    public static synchronized Optional<String> load() {
        if (!tried) {
            tried = true;
            try {
                path = loadOnce();
                step("loaded " + path + ", version " + DjlBsr.djlbsr_version());
            } catch (IOException | LinkageError e) {
                failure = e.getMessage();
                step(failure);
            }
        }
        return Optional.ofNullable(failure);
    }

    /**
     * Returns the file that was loaded.
     *
     * @return the file, empty if the library is not loaded
     */
    public static synchronized Optional<Path> getPath() {
        return Optional.ofNullable(failure == null ? path : null);
    }

    /**
     * Returns what {@link #load} did, for reports.
     *
     * @return one line a step, in order
     */
    public static synchronized List<String> getSteps() {
        return List.copyOf(steps);
    }

    /**
     * Returns the version of the jar of this class, which the library must share.
     *
     * @return the version
     */
    public static String getVersion() {
        try (InputStream in = NativeLibrary.class.getResourceAsStream("native.properties")) {
            Properties properties = new Properties();
            properties.load(in);
            return properties.getProperty("version");
        } catch (IOException e) {
            throw new AssertionError("The jar of djl-bsr-native is damaged", e);
        }
    }

    private static Path loadOnce() throws IOException {
        Path library = locate();
        String helper = System.getProperty(HELPER_PROPERTY, "");
        try {
            if (helper.isEmpty()) {
                System.load(library.toString());
            } else {
                step("loading through " + helper);
                loadThrough(helper, library);
            }
        } catch (UnsatisfiedLinkError e) {
            throw new IOException(
                    "libdjlbsr cannot be loaded: "
                            + e.getMessage()
                            + ". It is built for Linux on x86-64 with glibc; set "
                            + PATH_PROPERTY
                            + " to a library that fits this machine, or "
                            + HELPER_PROPERTY
                            + " if another class loader has it",
                    e);
        }
        try {
            // Initializing the generated class makes JavaCPP load the binding.
            checkVersion(library, DjlBsr.djlbsr_version());
        } catch (LinkageError e) {
            throw new IOException(
                    library
                            + " is not a libdjlbsr that fits djl-bsr "
                            + getVersion()
                            + ": "
                            + rootMessage(e)
                            + ". Use the library of the same version",
                    e);
        }
        return library;
    }

    private static Path locate() throws IOException {
        String source = "system property " + PATH_PROPERTY;
        String given = System.getProperty(PATH_PROPERTY, "");
        if (given.isEmpty()) {
            source = "environment variable " + PATH_VARIABLE;
            String value = System.getenv(PATH_VARIABLE);
            given = value == null ? "" : value;
        }
        String name = System.mapLibraryName("djlbsr");
        if (!given.isEmpty()) {
            step(source + " is " + given);
            Path file = Path.of(given).toAbsolutePath();
            if (Files.isDirectory(file)) {
                file = file.resolve(name);
            }
            if (!Files.isRegularFile(file)) {
                throw new IOException(
                        source
                                + " is "
                                + given
                                + ", but there is no file "
                                + file
                                + "; correct it, or unset it to use the library in the jar");
            }
            return file;
        }
        step("neither system property " + PATH_PROPERTY + " nor " + source + " is set");
        String resource = Loader.getPlatform() + '/' + name;
        URL url = NativeLibrary.class.getResource(resource);
        if (url == null) {
            throw new IOException(
                    "djl-bsr-native has no library for "
                            + Loader.getPlatform()
                            + "; build one and set "
                            + PATH_PROPERTY);
        }
        step("the class path has " + url);
        if (url.getProtocol().equals("file")) {
            return Path.of(URI.create(url.toString()));
        }
        File file = Loader.cacheResource(url);
        if (file == null) {
            throw new IOException(
                    url
                            + " cannot be extracted; set the system property"
                            + " org.bytedeco.javacpp.cachedir to a writable folder");
        }
        return file.toPath().toAbsolutePath();
    }

    private static void loadThrough(String helper, Path library) throws IOException {
        try {
            ClassLoader loader = Thread.currentThread().getContextClassLoader();
            Class.forName(
                            helper,
                            true,
                            loader == null ? NativeLibrary.class.getClassLoader() : loader)
                    .getDeclaredMethod("load", String.class)
                    .invoke(null, library.toString());
        } catch (InvocationTargetException e) {
            if (e.getCause() instanceof UnsatisfiedLinkError) {
                throw (UnsatisfiedLinkError) e.getCause();
            }
            throw new IOException(HELPER_PROPERTY + " " + helper + " failed: " + e.getCause(), e);
        } catch (ReflectiveOperationException e) {
            throw new IOException(
                    HELPER_PROPERTY
                            + " is "
                            + helper
                            + ", but that is no class with a public static load(String): "
                            + e,
                    e);
        }
    }

    private static void checkVersion(Path library, String version) throws IOException {
        String expected = getVersion().replace("-SNAPSHOT", "");
        if (!expected.equals(version)) {
            throw new IOException(
                    library
                            + " has version "
                            + version
                            + " but this jar needs "
                            + expected
                            + "; use the library of the same version");
        }
    }

    private static String rootMessage(Throwable error) {
        Throwable root = error;
        while (root.getCause() != null) {
            root = root.getCause();
        }
        return String.valueOf(root.getMessage());
    }

    private static void step(String what) {
        steps.add(what);
        logger.debug(what);
    }
}
