/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.jni;

import org.bytedeco.javacpp.Pointer;

/**
 * Memory of one device and a queue of work on it, as the plain functions of the binding take them.
 */
public interface DeviceMemory extends AutoCloseable {

    /** Returns {@code DJLBSR_CPU} or {@code DJLBSR_CUDA}. */
    int device();

    /** Returns what {@code stream} arguments take, null on the CPU. */
    Pointer stream();

    /** Returns memory that is freed with this object, aligned as packed weights have to be. */
    Pointer allocate(long bytes);

    /** Copies from host memory; returns when the source may change. */
    void upload(Pointer to, Pointer from, long bytes);

    /** Copies to host memory what the device has when all work queued so far is done. */
    void download(Pointer to, Pointer from, long bytes);

    /** Waits for all work that was queued. */
    void synchronize();

    @Override
    void close();
}
