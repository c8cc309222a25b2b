/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.jni.presets;

import org.bytedeco.javacpp.annotation.Platform;
import org.bytedeco.javacpp.annotation.Properties;
import org.bytedeco.javacpp.tools.Info;
import org.bytedeco.javacpp.tools.InfoMap;
import org.bytedeco.javacpp.tools.InfoMapper;

/**
 * Tells JavaCPP how to bind {@code djlbsr.h}: its constants and functions, as static members of
 * {@code io.djlbsr.jni.global.DjlBsr}, and its structures, as classes of that package. Memory, of
 * the device too, is a {@code Pointer}. A structure keeps the addresses of the pointers that are
 * set in it and not these themselves: hold on to them until the call has returned. No class of that
 * package can be used before {@code NativeLibrary.load}.
 *
 * <p>{@code libdjlbsr} is linked through a compiler option and not through {@link Platform#link},
 * so that {@link io.djlbsr.jni.NativeLibrary} alone decides which copy of it a process loads.
 */
@Properties(
        value =
                @Platform(
                        include = "djlbsr.h",
                        library = "jnidjlbsr",
                        define = "STRING_BYTES_CHARSET \"UTF-8\""),
        target = "io.djlbsr.jni.global",
        global = "io.djlbsr.jni.global.DjlBsr")
public class DjlBsrPresets implements InfoMapper {

    /** Constructs the presets; JavaCPP does so by reflection. */
    public DjlBsrPresets() {}

    /** {@inheritDoc} */
    @Override
    public void map(InfoMap infoMap) {
        infoMap.put(new Info("DJLBSR_API").cppTypes().annotations())
                .put(
                        new Info("const char")
                                .valueTypes("byte")
                                .pointerTypes("@Cast(\"const char*\") String"))
                .put(new Info("djlbsr_tensor").cast().valueTypes("long").pointerTypes("long[]"));
    }
}
