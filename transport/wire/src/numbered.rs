//! Enums of one byte, described once.

/// Declares an enum without fields whose variants each have a number and a text, the list of all of them
/// (`ALL`), `from_number`, and `text`.
macro_rules! numbered {
    (
        $(#[$enum_doc:meta])*
        pub enum $type:ident {
            $( $(#[$doc:meta])* $variant:ident = $number:literal $text:literal, )*
        }
    ) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $type {
            $( $(#[$doc])* $variant = $number, )*
        }

        impl $type {
            /// Every variant, in order of declaration.
            pub const ALL: [Self; [$($number),*].len()] = [$(Self::$variant),*];

            /// The variant with this number, or `None`.
            #[must_use]
            #[inline]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            const fn text(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

pub(crate) use numbered;
