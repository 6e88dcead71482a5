//! Headers of qcow2 images.
