/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import ai.djl.Device;
import ai.djl.MalformedModelException;
import ai.djl.ndarray.NDArray;
import ai.djl.nn.Parameter;
import ai.djl.training.ParameterStore;
import java.io.IOException;
import java.lang.ref.WeakReference;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.locks.ReadWriteLock;
import java.util.concurrent.locks.ReentrantReadWriteLock;

/**
 * The spec of a layer now, and the spec that belongs to each array of values it had before.
 *
 * <p>A {@code ParameterStore} goes on with the array, or the copy of it, that it took before the
 * layer loaded another structure. Such values are of use with their own structure alone.
 */
final class SpecHistory {

    /** Between taking values from a store, which may copy them, and their spec no load may end. */
    private final ReadWriteLock lock = new ReentrantReadWriteLock();

    private final Parameter weight;
    private final Parameter bias;
    private volatile BsrLinearSpec current;
    private volatile List<Known> known = List.of();
    private volatile boolean replaced;

    SpecHistory(Parameter weight, Parameter bias, BsrLinearSpec first) {
        this.weight = weight;
        this.bias = bias;
        current = first;
    }

    /** Sets arrays of a layer. */
    @FunctionalInterface
    interface ArrayChange {
        void run() throws IOException, MalformedModelException;
    }

    /** Weight, bias and spec of one load; bias is null for none. */
    record Arguments(NDArray values, NDArray bias, BsrLinearSpec spec) {}

    private static final class Known extends WeakReference<NDArray> {
        final BsrLinearSpec spec;

        Known(NDArray values, BsrLinearSpec spec) {
            super(values);
            this.spec = spec;
        }
    }

    BsrLinearSpec current() {
        return current;
    }

    /**
     * Takes weight and bias from a store.
     *
     * @throws IllegalStateException if nothing tells which structure the values were made for
     */
    Arguments arguments(ParameterStore store, Device device, boolean training) {
        lock.readLock().lock();
        try {
            NDArray values = valueOf(weight, store, device, training);
            return new Arguments(values, valueOf(bias, store, device, training), of(values));
        } finally {
            lock.readLock().unlock();
        }
    }

    private static NDArray valueOf(
            Parameter parameter, ParameterStore store, Device device, boolean training) {
        try {
            return store.getValue(parameter, device, training);
        } catch (NullPointerException e) {
            // How a ParameterStore says that it does not know a device; it always knows its own.
            if (device.equals(store.getManager().getDevice())) {
                throw e;
            }
            throw new IllegalArgumentException(
                    "input is on "
                            + device
                            + ", for which the ParameterStore has no parameters; move the input"
                            + " with toDevice, or make the Predictor or Trainer for that device",
                    e);
        }
    }

    /** Reads arrays or the spec of a layer. */
    @FunctionalInterface
    interface Reading<R, E extends Exception> {
        R run() throws E;
    }

    /** Reads arrays and spec while no load is under way, so that they belong together. */
    <R, E extends Exception> R read(Reading<R, E> reading) throws E {
        lock.readLock().lock();
        try {
            return reading.run();
        } finally {
            lock.readLock().unlock();
        }
    }

    /** Changes arrays and spec while no arguments are taken. */
    void replace(BsrLinearSpec next, ArrayChange change)
            throws IOException, MalformedModelException {
        lock.writeLock().lock();
        try {
            if (weight.isInitialized() && current.hasStructure()) {
                of(weight.getArray());
            }
            change.run();
            replaced |= current.hasStructure() && !current.equals(next);
            current = next;
        } finally {
            lock.writeLock().unlock();
        }
    }

    private BsrLinearSpec of(NDArray values) {
        for (Known entry : known) {
            if (entry.refersTo(values)) {
                return entry.spec;
            }
        }
        if (replaced && !isCurrent(values)) {
            throw new IllegalStateException(
                    "the ParameterStore holds a copy of the weight from before the layer loaded"
                            + " another structure; make the Trainer or Predictor after loading");
        }
        remember(values);
        return current;
    }

    private boolean isCurrent(NDArray values) {
        NDArray own = weight.getArray();
        return values == own || Arrays.equals(values.toByteArray(), own.toByteArray());
    }

    private synchronized void remember(NDArray values) {
        List<Known> next = new ArrayList<>(known);
        next.removeIf(
                entry -> {
                    NDArray array = entry.get();
                    return array == null || array.isReleased();
                });
        next.add(new Known(values, current));
        known = next;
    }
}
