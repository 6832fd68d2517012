//! The three ciphers, over the payload behind a prefix.

use std::ops::Range;

use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::consts::{U12, U16};
use aes_gcm::aes::{Aes128, Aes192, Aes256};
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm};
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyInit, KeyIvInit};
use crypto_secretbox::XSalsa20Poly1305;
use crypto_secretbox::aead::{AeadInPlace, KeyInit as SecretboxInit};
use secrecy::{ExposeSecret as _, SecretBox};

use super::SealError;

pub(super) const SECRETBOX_KEY_BYTES: usize = 32;
/// What a key of AES may have, for messages.
pub(super) const AES_KEY_BYTES: &str = "16, 24 or 32";

const SECRETBOX_NONCE_BYTES: usize = 24;
const GCM_NONCE_BYTES: usize = 12;
/// Of Poly1305 and of GCM.
const TAG_BYTES: usize = 16;
/// A block of AES, which is also the length of an IV.
const BLOCK_BYTES: usize = 16;

/// A key with what it is for.
pub(super) enum Cipher {
    Secretbox(SecretboxKey),
    AesGcm(AesKey),
    AesCbc(AesKey),
}

pub(super) struct SecretboxKey(SecretBox<[u8; SECRETBOX_KEY_BYTES]>);

impl SecretboxKey {
    /// `None`: the length is another.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        secret(bytes).map(Self)
    }
}

/// The length of the key chooses the cipher.
pub(super) enum AesKey {
    Bits128(SecretBox<[u8; 16]>),
    Bits192(SecretBox<[u8; 24]>),
    Bits256(SecretBox<[u8; 32]>),
}

impl AesKey {
    /// `None`: no AES has keys of this length.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        secret(bytes)
            .map(Self::Bits128)
            .or_else(|| secret(bytes).map(Self::Bits192))
            .or_else(|| secret(bytes).map(Self::Bits256))
    }
}

fn secret<const LENGTH: usize>(bytes: &[u8]) -> Option<SecretBox<[u8; LENGTH]>>
where
    [u8; LENGTH]: secrecy::zeroize::Zeroize + Default,
{
    let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
    Some(SecretBox::init_with_mut(|key: &mut [u8; LENGTH]| *key = *bytes))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no room for nonce and tag.
    Short,
    /// Another key, or other bytes than were written.
    Wrong,
}

impl Cipher {
    /// Names of all.
    pub const PROVIDERS: &[&str] = &["secretbox", "aesgcm", "aescbc"];

    /// As prefixes have it.
    pub fn provider(&self) -> &'static str {
        match self {
            Self::Secretbox(_) => "secretbox",
            Self::AesGcm(_) => "aesgcm",
            Self::AesCbc(_) => "aescbc",
        }
    }

    /// Decrypts in place; gives where in `payload` the plain text lies then. After a failure `payload` is spoilt.
    pub fn open(&self, payload: &mut [u8], authenticated: &[u8]) -> Result<Range<usize>, Failure> {
        match self {
            Self::Secretbox(key) => open_secretbox(key, payload),
            Self::AesGcm(AesKey::Bits128(key)) => {
                open_gcm(&Aes128Gcm::new(key.expose_secret().into()), payload, authenticated)
            }
            Self::AesGcm(AesKey::Bits192(key)) => {
                open_gcm(&Aes192Gcm::new(key.expose_secret().into()), payload, authenticated)
            }
            Self::AesGcm(AesKey::Bits256(key)) => {
                open_gcm(&Aes256Gcm::new(key.expose_secret().into()), payload, authenticated)
            }
            Self::AesCbc(key) => open_cbc(key, payload),
        }
    }

    /// Appends the payload that holds `plain`, under a nonce that is drawn anew.
    pub fn seal(&self, plain: &[u8], authenticated: &[u8], into: &mut Vec<u8>) -> Result<(), SealError> {
        match self {
            Self::Secretbox(key) => seal_secretbox(key, plain, into),
            Self::AesGcm(AesKey::Bits128(key)) => {
                seal_gcm(&Aes128Gcm::new(key.expose_secret().into()), plain, authenticated, into)
            }
            Self::AesGcm(AesKey::Bits192(key)) => {
                seal_gcm(&Aes192Gcm::new(key.expose_secret().into()), plain, authenticated, into)
            }
            Self::AesGcm(AesKey::Bits256(key)) => {
                seal_gcm(&Aes256Gcm::new(key.expose_secret().into()), plain, authenticated, into)
            }
            Self::AesCbc(key) => seal_cbc(key, plain, into),
        }
    }
}

type Aes192Gcm = AesGcm<Aes192, U12>;

fn random<const LENGTH: usize>() -> Result<[u8; LENGTH], SealError> {
    let mut bytes = [0; LENGTH];
    getrandom::fill(&mut bytes).map_err(|_| SealError::NoRandomBytes)?;
    Ok(bytes)
}

fn open_secretbox(key: &SecretboxKey, payload: &mut [u8]) -> Result<Range<usize>, Failure> {
    let length = payload.len();
    let (nonce, rest) = payload.split_first_chunk_mut::<SECRETBOX_NONCE_BYTES>().ok_or(Failure::Short)?;
    let (tag, body) = rest.split_first_chunk_mut::<TAG_BYTES>().ok_or(Failure::Short)?;
    let cipher = <XSalsa20Poly1305 as SecretboxInit>::new(key.0.expose_secret().into());
    let opened = cipher.decrypt_in_place_detached((&*nonce).into(), b"", body, (&*tag).into());
    opened.map_err(|_| Failure::Wrong)?;
    Ok(SECRETBOX_NONCE_BYTES + TAG_BYTES..length)
}

fn seal_secretbox(key: &SecretboxKey, plain: &[u8], into: &mut Vec<u8>) -> Result<(), SealError> {
    let nonce = random::<SECRETBOX_NONCE_BYTES>()?;
    into.extend_from_slice(&nonce);
    let at = into.len();
    into.extend_from_slice(&[0; TAG_BYTES]);
    into.extend_from_slice(plain);
    let cipher = <XSalsa20Poly1305 as SecretboxInit>::new(key.0.expose_secret().into());
    let tag = cipher.encrypt_in_place_detached((&nonce).into(), b"", &mut into[at + TAG_BYTES..]);
    into[at..at + TAG_BYTES].copy_from_slice(&tag.map_err(|_| SealError::TooLong)?);
    Ok(())
}

fn open_gcm<C>(cipher: &C, payload: &mut [u8], authenticated: &[u8]) -> Result<Range<usize>, Failure>
where
    C: AeadInOut<NonceSize = U12, TagSize = U16>,
{
    let length = payload.len();
    let (nonce, rest) = payload.split_first_chunk_mut::<GCM_NONCE_BYTES>().ok_or(Failure::Short)?;
    let (body, tag) = rest.split_last_chunk_mut::<TAG_BYTES>().ok_or(Failure::Short)?;
    let opened = cipher.decrypt_inout_detached((&*nonce).into(), authenticated, body.into(), (&*tag).into());
    opened.map_err(|_| Failure::Wrong)?;
    Ok(GCM_NONCE_BYTES..length - TAG_BYTES)
}

fn seal_gcm<C>(cipher: &C, plain: &[u8], authenticated: &[u8], into: &mut Vec<u8>) -> Result<(), SealError>
where
    C: AeadInOut<NonceSize = U12, TagSize = U16>,
{
    let nonce = random::<GCM_NONCE_BYTES>()?;
    into.extend_from_slice(&nonce);
    let at = into.len();
    into.extend_from_slice(plain);
    let tag = cipher.encrypt_inout_detached((&nonce).into(), authenticated, (&mut into[at..]).into());
    into.extend_from_slice(&tag.map_err(|_| SealError::TooLong)?);
    Ok(())
}

fn open_cbc(key: &AesKey, payload: &mut [u8]) -> Result<Range<usize>, Failure> {
    let (iv, body) = payload.split_first_chunk_mut::<BLOCK_BYTES>().ok_or(Failure::Short)?;
    if body.is_empty() {
        return Err(Failure::Short);
    }
    let iv = (&*iv).into();
    let opened = match key {
        AesKey::Bits128(key) => {
            cbc::Decryptor::<Aes128>::new(key.expose_secret().into(), iv).decrypt_padded::<Pkcs7>(body)
        }
        AesKey::Bits192(key) => {
            cbc::Decryptor::<Aes192>::new(key.expose_secret().into(), iv).decrypt_padded::<Pkcs7>(body)
        }
        AesKey::Bits256(key) => {
            cbc::Decryptor::<Aes256>::new(key.expose_secret().into(), iv).decrypt_padded::<Pkcs7>(body)
        }
    };
    let plain = opened.map_err(|_| Failure::Wrong)?;
    // Nothing but the padding tells a right key from a wrong one, and a padding is right by chance once in 256 times.
    match plain.first() {
        Some(b'{') => Ok(BLOCK_BYTES..BLOCK_BYTES + plain.len()),
        Some(_) | None => Err(Failure::Wrong),
    }
}

fn seal_cbc(key: &AesKey, plain: &[u8], into: &mut Vec<u8>) -> Result<(), SealError> {
    let iv = random::<BLOCK_BYTES>()?;
    into.extend_from_slice(&iv);
    let at = into.len();
    into.extend_from_slice(plain);
    into.resize(at + (plain.len() / BLOCK_BYTES + 1) * BLOCK_BYTES, 0);
    let (iv, body, length) = ((&iv).into(), &mut into[at..], plain.len());
    let sealed = match key {
        AesKey::Bits128(key) => {
            cbc::Encryptor::<Aes128>::new(key.expose_secret().into(), iv).encrypt_padded::<Pkcs7>(body, length)
        }
        AesKey::Bits192(key) => {
            cbc::Encryptor::<Aes192>::new(key.expose_secret().into(), iv).encrypt_padded::<Pkcs7>(body, length)
        }
        AesKey::Bits256(key) => {
            cbc::Encryptor::<Aes256>::new(key.expose_secret().into(), iv).encrypt_padded::<Pkcs7>(body, length)
        }
    };
    // There is room for the padding.
    sealed.map(drop).map_err(|_| SealError::TooLong)
}
