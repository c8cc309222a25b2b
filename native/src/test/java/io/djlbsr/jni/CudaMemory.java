/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.jni;

import com.sun.jna.Library;
import com.sun.jna.Native;
import com.sun.jna.ptr.PointerByReference;
import io.djlbsr.jni.global.DjlBsr;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.bytedeco.javacpp.Pointer;

/**
 * Memory of the first CUDA device and a stream of it, through the driver that every machine with
 * such a device has. It belongs to the thread that made it.
 */
public final class CudaMemory implements DeviceMemory {

    private static final int DEVICE = 0;
    private static final int NON_BLOCKING = 1;
    private static final int CAPTURE_THREAD_LOCAL = 1;

    /** Functions of the driver; handles and addresses are 64-bit numbers. */
    private interface Driver extends Library {

        int cuInit(int flags);

        int cuGetErrorString(int status, PointerByReference text);

        int cuDeviceGetName(byte[] name, int length, int device);

        int cuDevicePrimaryCtxRetain(long[] context, int device);

        int cuDevicePrimaryCtxRelease_v2(int device);

        int cuCtxSetCurrent(long context);

        int cuMemAlloc_v2(long[] address, long bytes);

        int cuMemFree_v2(long address);

        int cuMemcpyHtoDAsync_v2(long to, long from, long bytes, long stream);

        int cuMemcpyDtoHAsync_v2(long to, long from, long bytes, long stream);

        int cuStreamCreate(long[] stream, int flags);

        int cuStreamDestroy_v2(long stream);

        int cuStreamSynchronize(long stream);

        int cuStreamBeginCapture_v2(long stream, int mode);

        int cuStreamEndCapture(long stream, long[] graph);

        int cuGraphInstantiateWithFlags(long[] executable, long graph, long flags);

        int cuGraphLaunch(long executable, long stream);

        int cuGraphExecDestroy(long executable);

        int cuGraphDestroy(long graph);
    }

    /** Memory that JavaCPP neither frees nor reads. */
    private static final class Address extends Pointer {

        Address(long address) {
            this.address = address;
        }
    }

    /** Work to capture. */
    public interface Work {

        /** Queues it on {@link #stream}. */
        void queue();
    }

    private final Driver driver;
    private final List<Pointer> owned = new ArrayList<>();
    private final Pointer stream;

    /** Makes the first device current and a stream of it. */
    public CudaMemory() {
        driver = Native.load("libcuda.so.1", Driver.class);
        check(driver.cuInit(0));
        long[] handle = new long[1];
        check(driver.cuDevicePrimaryCtxRetain(handle, DEVICE));
        check(driver.cuCtxSetCurrent(handle[0]));
        check(driver.cuStreamCreate(handle, NON_BLOCKING));
        stream = new Address(handle[0]);
    }

    /** Returns the device's name. */
    public String deviceName() {
        byte[] name = new byte[256];
        check(driver.cuDeviceGetName(name, name.length, DEVICE));
        return new String(name, StandardCharsets.UTF_8).split("\0", 2)[0];
    }

    @Override
    public int device() {
        return DjlBsr.DJLBSR_CUDA;
    }

    @Override
    public Pointer stream() {
        return stream;
    }

    @Override
    public Pointer allocate(long bytes) {
        long[] address = new long[1];
        check(driver.cuMemAlloc_v2(address, Math.max(bytes, 1)));
        owned.add(new Address(address[0]));
        return owned.get(owned.size() - 1);
    }

    @Override
    public void upload(Pointer to, Pointer from, long bytes) {
        check(driver.cuMemcpyHtoDAsync_v2(to.address(), from.address(), bytes, stream.address()));
        synchronize();
    }

    @Override
    public void download(Pointer to, Pointer from, long bytes) {
        check(driver.cuMemcpyDtoHAsync_v2(to.address(), from.address(), bytes, stream.address()));
        synchronize();
    }

    @Override
    public void synchronize() {
        check(driver.cuStreamSynchronize(stream.address()));
    }

    /** Captures work in a CUDA graph, without running it, and returns what replays it. */
    public Work capture(Work work) {
        long[] graph = new long[1];
        long[] executable = new long[1];
        check(driver.cuStreamBeginCapture_v2(stream.address(), CAPTURE_THREAD_LOCAL));
        work.queue();
        check(driver.cuStreamEndCapture(stream.address(), graph));
        check(driver.cuGraphInstantiateWithFlags(executable, graph[0], 0));
        check(driver.cuGraphDestroy(graph[0]));
        return () -> {
            check(driver.cuGraphLaunch(executable[0], stream.address()));
            synchronize();
            check(driver.cuGraphExecDestroy(executable[0]));
        };
    }

    @Override
    public void close() {
        synchronize();
        owned.forEach(memory -> check(driver.cuMemFree_v2(memory.address())));
        owned.clear();
        check(driver.cuStreamDestroy_v2(stream.address()));
        check(driver.cuDevicePrimaryCtxRelease_v2(DEVICE));
    }

    private void check(int status) {
        if (status != 0) {
            var text = new PointerByReference();
            driver.cuGetErrorString(status, text);
            throw new IllegalStateException(
                    "CUDA driver status "
                            + status
                            + (text.getValue() == null ? "" : ": " + text.getValue().getString(0)));
        }
    }
}
