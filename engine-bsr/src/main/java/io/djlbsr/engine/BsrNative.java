/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import ai.djl.engine.Engine;
import ai.djl.engine.EngineException;
import io.djlbsr.jni.NativeLibrary;
import io.djlbsr.jni.global.DjlBsr;
import java.util.Optional;

/** Brings up {@code libdjlbsr} in a PyTorch process and turns its statuses into exceptions. */
final class BsrNative {

    /** The engine that the native code works in. */
    static final String PYTORCH = "PyTorch";

    private BsrNative() {}

    /**
     * Loads PyTorch, then the library, and registers the operators, once.
     *
     * @return empty if the native code can be used, else why not: the same answer at every call
     */
    static Optional<String> unavailable() {
        return Optional.ofNullable(Holder.FAILURE);
    }

    /** Throws what a {@code djlbsr_status} stands for, with the library's text. */
    static void checkCall(int status) {
        if (status == DjlBsr.DJLBSR_OK) {
            return;
        }
        String message = DjlBsr.djlbsr_last_error();
        throw switch (status) {
            case DjlBsr.DJLBSR_INVALID_ARGUMENT -> new IllegalArgumentException(message);
            case DjlBsr.DJLBSR_UNSUPPORTED -> new UnsupportedOperationException(message);
            default -> new EngineException(message);
        };
    }

    /** The library may be loaded after PyTorch alone: they share PyTorch's OpenMP then. */
    private static final class Holder {
        static final String FAILURE = load();

        private static String load() {
            try {
                Engine.getEngine(PYTORCH);
                Optional<String> failure = NativeLibrary.load();
                if (failure.isPresent()) {
                    return failure.get();
                }
                checkCall(DjlBsr.djlbsr_torch_register());
                return null;
            } catch (RuntimeException e) {
                return "PyTorch cannot run the native operator: " + e.getMessage();
            }
        }
    }
}
