//! EROFS images without data: writer and reader.
