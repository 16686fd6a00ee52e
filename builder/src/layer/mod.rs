//! Layers as streams: the tar and PAX codec, whiteouts, compression, verified readers.
