//! The only unsafe code: opens a dylib, reads what it says of itself, and calls its `__run` with arrays over the Arrow C interface.
//! The layout is that of arroyo-udf-common 0.2. It checks no types: its callers hand over what the dylib declared.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use arrow::array::{ArrayData, ArrayRef, make_array};
use arrow::datatypes::DataType;
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi, to_ffi};
use libloading::Library;

use super::said::REBUILD;

/// An array as the C interface has it.
#[repr(C)]
struct Pair(FFI_ArrowArray, FFI_ArrowSchema);

/// The arguments: a vector of pairs that the callee takes over and frees.
#[repr(C)]
struct Arrays {
    ptr: *mut Pair,
    len: usize,
    capacity: usize,
    error: bool,
}

/// The answer; `Err` is a panic that the plugin caught.
#[repr(C)]
#[allow(dead_code, reason = "both are made by the dylib")]
enum Answer {
    Ok(Pair),
    Err,
}

type Run = unsafe extern "C-unwind" fn(Arrays) -> Answer;
type Malloc = unsafe extern "C" fn(usize) -> *mut c_void;

/// What came of a call.
pub(super) enum Ended {
    /// An array of the type that was wanted, checked to its last byte.
    Gave(ArrayRef),
    /// It panicked.
    Panicked,
    /// It gave something else, or could not be called.
    Refused(String),
}

/// A dylib that is open until the process ends.
pub(super) struct Foreign {
    run: Run,
    malloc: Malloc,
}

impl Foreign {
    /// Opens a dylib; gives it and what it says of itself.
    ///
    /// # Errors
    /// It is no dylib, or has not the symbols of a UDF of ours.
    pub(super) fn open(path: &Path) -> Result<(Self, String), String> {
        // SAFETY: initialisers of the dylib run here. The operator names the folder, and what lies in it is code of the operator's.
        let library = unsafe { Library::new(path) }.map_err(|e| format!("cannot be loaded: {e}; {REBUILD}"))?;
        // Never closed: arrays it made carry pointers to its code, and so do thread locals of its standard library.
        let library: &'static Library = Box::leak(Box::new(library));
        // SAFETY: the symbol is a static array of bytes with a NUL at its end, so that its address is that of a C string; it lives as
        // long as the library, which is never closed.
        let said = unsafe {
            let said = library
                .get::<*const c_char>(b"__soma_udf")
                .map_err(|_| format!("exports no `__soma_udf`, so its types are not known; {REBUILD}"))?;
            CStr::from_ptr(*said)
        };
        let said = said
            .to_str()
            .map_err(|e| format!("what it says of itself is not UTF-8: {e}; {REBUILD}"))?;
        // SAFETY: `__run` is declared with this signature by arroyo-udf-plugin; that it is 0.2.0 is checked before it is called.
        let run = unsafe { library.get::<Run>(b"__run") }
            .map(|run| *run)
            .map_err(|_| format!("exports no `__run`, so there is nothing to call; {REBUILD}"))?;
        // SAFETY: the C library's own `malloc`, or the one that takes its place in this process.
        let malloc = unsafe { libloading::os::unix::Library::this().get::<Malloc>(b"malloc") }
            .map(|malloc| *malloc)
            .map_err(|e| format!("this process has no `malloc`: {e}"))?;
        Ok((Self { run, malloc }, said.to_owned()))
    }

    /// Calls it. The arguments must be of the declared types, of one length, and at least one.
    pub(super) fn call(&self, args: &[ArrayRef], wanted: &DataType) -> Ended {
        let pairs: Result<Vec<_>, _> = args.iter().map(|a| to_ffi(&a.to_data())).collect();
        let arrays = match pairs {
            Ok(pairs) => self.handed_over(pairs),
            Err(e) => return Ended::Refused(format!("an argument cannot be handed over: {e}")),
        };
        let Some(arrays) = arrays else {
            return Ended::Refused("there is no memory for its arguments".to_owned());
        };
        // The plugin catches panics of the function itself, and nothing else in `__run` of the version that was checked panics on
        // arguments of the declared types. A panic of another copy of the standard library could not be caught here.
        // SAFETY: `run` has this signature, and `arrays` is a vector as it expects it, which it takes over.
        let answer = catch_unwind(AssertUnwindSafe(|| unsafe { (self.run)(arrays) }));
        match answer {
            Ok(Answer::Ok(pair)) => taken(pair, wanted),
            Ok(Answer::Err) | Err(_) => Ended::Panicked,
        }
    }

    /// Puts the arguments where the callee can free them: it does so with the `free` of the dynamic linker's choice, so the memory
    /// has to come from the `malloc` that belongs to it, which need not be the one this program allocates with.
    fn handed_over(&self, pairs: Vec<(FFI_ArrowArray, FFI_ArrowSchema)>) -> Option<Arrays> {
        let len = pairs.len();
        // SAFETY: `malloc` may be called with any size; the result is checked below. It is aligned for any C type, pairs among them.
        let ptr = unsafe { (self.malloc)(len * size_of::<Pair>()) }.cast::<Pair>();
        if ptr.is_null() {
            return None;
        }
        for (i, (array, schema)) in pairs.into_iter().enumerate() {
            // SAFETY: `i` is below `len`, for which there is room, and nothing is there yet that would have to be dropped.
            unsafe { ptr.add(i).write(Pair(array, schema)) };
        }
        Some(Arrays {
            ptr,
            len,
            capacity: len,
            error: false,
        })
    }
}

fn taken(Pair(array, schema): Pair, wanted: &DataType) -> Ended {
    match DataType::try_from(&schema) {
        Ok(given) if given == *wanted => {}
        Ok(given) => return Ended::Refused(format!("gave {given}, not {wanted} as it declares")),
        Err(e) => return Ended::Refused(format!("gave a type that cannot be read: {e}")),
    }
    // SAFETY: the pair was made by arrow's own export in the dylib; the type is the one that the C interface says.
    let data: Result<ArrayData, _> = unsafe { from_ffi(array, &schema) };
    match data.and_then(|data| data.validate_full().map(|()| data)) {
        Ok(data) => Ended::Gave(make_array(data)),
        Err(e) => Ended::Refused(format!("gave an array that is not sound: {e}")),
    }
}
