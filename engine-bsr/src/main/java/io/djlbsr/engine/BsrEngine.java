/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import ai.djl.Device;
import ai.djl.Model;
import ai.djl.engine.Engine;
import ai.djl.engine.EngineException;
import ai.djl.ndarray.NDManager;
import ai.djl.nn.SymbolBlock;
import ai.djl.training.GradientCollector;
import ai.djl.training.ParameterServer;
import ai.djl.training.optimizer.Optimizer;
import io.djlbsr.jni.NativeLibrary;
import io.djlbsr.jni.global.DjlBsr;

/**
 * The engine {@code BSR}: DJL's PyTorch engine in a process where the native operator is loaded and
 * the PyTorch operators {@code bsr::linear}, {@code bsr::pack} and {@code bsr::linear_packed} are
 * registered, so that TorchScript models that use them can be loaded.
 *
 * <p>Select it by name, with {@code Criteria.optEngine("BSR")}, {@code Model.newInstance(name,
 * "BSR")} or {@code engine=BSR} in {@code serving.properties}; it never becomes the default. Its
 * models, managers and arrays are PyTorch's and say so. Models that are built of DJL blocks do not
 * need it: their block-sparse layers find the native operator under the engine {@code PyTorch} too.
 */
public final class BsrEngine extends Engine {

    /** The name of the engine. */
    public static final String NAME = "BSR";

    /** Behind all engines of DJL, so that this one is used by name alone. */
    static final int RANK = 100;

    private static Engine instance;

    private final Engine pytorch;

    private BsrEngine(Engine pytorch) {
        this.pytorch = pytorch;
    }

    /** Loads native code at the first call that succeeds. */
    static synchronized Engine shared() {
        if (instance == null) {
            Engine pytorch = Engine.getEngine(BsrNative.PYTORCH);
            BsrNative.unavailable()
                    .ifPresent(
                            reason -> {
                                throw new EngineException(
                                        "The engine BSR needs libdjlbsr: "
                                                + reason
                                                + ". Models that are built of DJL blocks run with"
                                                + " the engine PyTorch meanwhile.");
                            });
            instance = new BsrEngine(pytorch);
        }
        return instance;
    }

    /**
     * Allows or forbids the accuracy of TF32 for FLOAT32 weights on GPUs, for the whole process and
     * from the next product on. Allowed, a product may have errors up to 2<sup>-10</sup> where that
     * is faster (up to 2<sup>-15</sup> on Hopper GPUs); forbidden, errors are those of FLOAT32. It
     * is forbidden at first, unless the environment variable {@code DJLBSR_ALLOW_TF32} is 1.
     *
     * @param allowed whether the accuracy of TF32 will do
     * @throws EngineException if the native library cannot be loaded
     */
    public static void setTf32Allowed(boolean allowed) {
        shared();
        DjlBsr.djlbsr_set_allow_tf32(allowed ? 1 : 0);
    }

    /**
     * Returns whether the accuracy of TF32 will do for FLOAT32 weights on GPUs.
     *
     * @return the value of the last {@link #setTf32Allowed}, or what the environment says
     * @throws EngineException if the native library cannot be loaded
     */
    public static boolean isTf32Allowed() {
        shared();
        return DjlBsr.djlbsr_allow_tf32() != 0;
    }

    /** {@inheritDoc} */
    @Override
    public Engine getAlternativeEngine() {
        return pytorch.getAlternativeEngine();
    }

    /** {@inheritDoc} */
    @Override
    public String getEngineName() {
        return NAME;
    }

    /** {@inheritDoc} */
    @Override
    public int getRank() {
        return RANK;
    }

    /** {@inheritDoc} */
    @Override
    public String getVersion() {
        return NativeLibrary.getVersion();
    }

    /** {@inheritDoc} */
    @Override
    public boolean hasCapability(String capability) {
        return pytorch.hasCapability(capability);
    }

    /** {@inheritDoc} */
    @Override
    public Device defaultDevice() {
        return pytorch.defaultDevice();
    }

    /** {@inheritDoc} */
    @Override
    public int getGpuCount() {
        return pytorch.getGpuCount();
    }

    /** {@inheritDoc} */
    @Override
    public SymbolBlock newSymbolBlock(NDManager manager) {
        return pytorch.newSymbolBlock(manager);
    }

    /** {@inheritDoc} */
    @Override
    public Model newModel(String name, Device device) {
        return pytorch.newModel(name, device);
    }

    /** {@inheritDoc} */
    @Override
    public NDManager newBaseManager() {
        return pytorch.newBaseManager();
    }

    /** {@inheritDoc} */
    @Override
    public NDManager newBaseManager(Device device) {
        return pytorch.newBaseManager(device);
    }

    /** {@inheritDoc} */
    @Override
    public GradientCollector newGradientCollector() {
        return pytorch.newGradientCollector();
    }

    /** {@inheritDoc} */
    @Override
    public ParameterServer newParameterServer(Optimizer optimizer) {
        return pytorch.newParameterServer(optimizer);
    }

    /** {@inheritDoc} */
    @Override
    public void setRandomSeed(int seed) {
        pytorch.setRandomSeed(seed);
    }

    /** {@inheritDoc} */
    @Override
    public Integer getSeed() {
        return pytorch.getSeed();
    }

    /** {@inheritDoc} */
    @Override
    public String toString() {
        return NAME + ':' + getVersion() + " over " + pytorch;
    }
}
