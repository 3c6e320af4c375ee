# libev and llhttp, from source.
set(LIBEV_SOURCE "" CACHE PATH "Directory of libev 4.33's sources")
set(LLHTTP_SOURCE "" CACHE PATH "Directory of llhttp 9's generated sources")
file(GLOB LLHTTP_FILES ${LLHTTP_SOURCE}/src/*.c)
add_library(llhttp STATIC ${LLHTTP_FILES})
target_include_directories(llhttp PUBLIC ${LLHTTP_SOURCE}/include)
