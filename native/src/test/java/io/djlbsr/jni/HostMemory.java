/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.jni;

import io.djlbsr.jni.global.DjlBsr;
import java.util.ArrayList;
import java.util.List;
import org.bytedeco.javacpp.BytePointer;
import org.bytedeco.javacpp.Pointer;

/** The CPU's memory. */
public final class HostMemory implements DeviceMemory {

    private static final int ALIGNMENT = 64;

    private final List<Pointer> owned = new ArrayList<>();

    @Override
    public int device() {
        return DjlBsr.DJLBSR_CPU;
    }

    @Override
    public Pointer stream() {
        return null;
    }

    @Override
    public Pointer allocate(long bytes) {
        BytePointer memory = new BytePointer(bytes + ALIGNMENT);
        owned.add(memory);
        return memory.getPointer(Math.floorMod(-memory.address(), (long) ALIGNMENT));
    }

    @Override
    public void upload(Pointer to, Pointer from, long bytes) {
        Pointer.memcpy(to, from, bytes);
    }

    @Override
    public void download(Pointer to, Pointer from, long bytes) {
        Pointer.memcpy(to, from, bytes);
    }

    @Override
    public void synchronize() {}

    @Override
    public void close() {
        owned.forEach(Pointer::close);
        owned.clear();
    }
}
