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
 * Tells JavaCPP how to bind {@code djlbsr.h}: its constants and the functions that Java calls, as
 * static members of {@code io.djlbsr.jni.global.DjlBsr}.
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
        target = "io.djlbsr.jni",
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
        // Plain memory belongs to C and C++ callers.
        for (String name :
                new String[] {
                    "djlbsr_matrix",
                    "djlbsr_meta",
                    "djlbsr_info",
                    "djlbsr_linear_args",
                    "djlbsr_pack_query",
                    "djlbsr_meta_decode",
                    "djlbsr_pack",
                    "djlbsr_update_values",
                    "djlbsr_linear",
                    "djlbsr_kernel_name",
                    "djlbsr_prediction",
                    "djlbsr_predict"
                }) {
            infoMap.put(new Info(name).skip());
        }
    }
}
