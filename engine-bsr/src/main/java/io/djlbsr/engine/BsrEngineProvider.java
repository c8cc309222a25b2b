/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import ai.djl.engine.Engine;
import ai.djl.engine.EngineProvider;

/** The provider of the engine {@code BSR}. Discovery loads no native code. */
public final class BsrEngineProvider implements EngineProvider {

    /** Constructs the provider. */
    public BsrEngineProvider() {}

    /** {@inheritDoc} */
    @Override
    public String getEngineName() {
        return BsrEngine.NAME;
    }

    /** {@inheritDoc} */
    @Override
    public int getEngineRank() {
        return BsrEngine.RANK;
    }

    /** {@inheritDoc} */
    @Override
    public Engine getEngine() {
        return BsrEngine.shared();
    }
}
