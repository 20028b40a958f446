//! What the dylibs have in common: how they say what they are. The UDFs are the files beside this one. Each is posted to Arroyo as
//! it stands and built by its namesake in plugins: `#[udf]` exports the symbol `__run`, so no two can be in one library.

/// Exports a text as the symbol `__soma_udf`, NUL-terminated. The host reads it before it calls anything.
#[macro_export]
macro_rules! say {
    ($text:expr) => {
        /// What the host reads before it calls anything.
        #[no_mangle]
        #[allow(non_upper_case_globals)]
        pub static __soma_udf: [u8; $text.len() + 1] = $crate::terminated($text);
    };
}

/// A text and a NUL.
pub const fn terminated<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let mut i = 0;
    while i + 1 < N {
        bytes[i] = text.as_bytes()[i];
        i += 1;
    }
    bytes
}
