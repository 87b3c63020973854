//! One request of gRPC: who may ask it, which service it is for, and its bytes in and out, compressed or not.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::codec::{
    Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder, SingleMessageCompressionOverride,
};
use tonic::server::Grpc;
use tonic::{Code, Request, Response, Status};

use super::super::Caller;
use super::{Behind, Door, health, reflection};

/// More is not taken in, compressed or not; the frontend refuses less, and in the words that SDKs know.
const MAX_TAKEN_BYTES: usize = 16 << 20;
/// The header by which a process that passes on what came to it by TCP says so.
pub const CALLER: &str = "longhaul-caller";
/// Smaller answers are not worth the work.
const COMPRESSED_FROM_BYTES: usize = 1024;

/// Answers one request, in gRPC's form whatever it is.
pub(super) async fn answer(
    door: Door,
    request: http::Request<Incoming>,
) -> Result<http::Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let request = request.map(Body::new);
    if health::is_asked(&path) {
        // Who watches over a process has no key to what is in it.
        return Ok(health::answer(door.behind, &path, request).await);
    }
    if let Some(keys) = &door.keys
        && !keys.open(request.headers())
    {
        tracing::info!(path, "an RPC without a right API key was refused");
        return Ok(
            Status::unauthenticated("the API key is missing, or is not one of this service").into_http(),
        );
    }
    if reflection::is_asked(&path) {
        return Ok(reflection::answer(&path, request).await);
    }
    let caller = door.caller_of(request.headers());
    let asked = Unary {
        behind: door.behind,
        caller,
        path,
    };
    let answer = server(BytesCodec).unary(asked, request).await;
    let is_too_large = Status::from_header_map(answer.headers()).is_some_and(|status| {
        status.code() == Code::OutOfRange || status.message().starts_with("Error decompressing: size limit")
    });
    Ok(if is_too_large {
        // Of the code and in the words by which SDKs know that it will not help to ask again.
        let words = format!("grpc: received message larger than max (more than {MAX_TAKEN_BYTES})");
        Status::resource_exhausted(words).into_http()
    } else {
        answer
    })
}

/// What takes messages in and gives them out.
pub(super) fn server<C: Codec>(codec: C) -> Grpc<C> {
    Grpc::new(codec)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(MAX_TAKEN_BYTES)
}

impl Door {
    /// Who asks: by TCP, somebody from wherever, whatever the headers say.
    fn caller_of(&self, headers: &http::HeaderMap) -> Caller {
        match self.caller {
            Caller::Process if headers.contains_key(CALLER) => Caller::Remote,
            caller => caller,
        }
    }
}

struct Unary {
    behind: Arc<dyn Behind>,
    caller: Caller,
    path: String,
}

impl tonic::server::UnaryService<Bytes> for Unary {
    type Response = Bytes;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response<Bytes>, Status>> + Send>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let (behind, caller, path) = (Arc::clone(&self.behind), self.caller, self.path.clone());
        Box::pin(async move {
            let answer = behind.call(caller, &path, request.into_inner()).await?;
            let is_small = answer.len() < COMPRESSED_FROM_BYTES;
            let mut response = Response::new(answer);
            if is_small {
                response
                    .extensions_mut()
                    .insert(SingleMessageCompressionOverride::Disable);
            }
            Ok(response)
        })
    }
}

/// Passes messages on as they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
