/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/** What JavaCPP needs to know to bind {@code djlbsr.h}; of use to the build alone. */
package io.djlbsr.jni.presets;
